"""Evaluation on the validation rows: loss, generated answers, and how they are scored."""
