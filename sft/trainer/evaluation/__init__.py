"""Evaluation on the held-out rows: loss, generated answers, and how they are scored."""
