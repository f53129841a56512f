"""Rows as users write them: files of every kind, and the forms that a row may have. No torch."""
