"""The hub of models and data sets: what lies there, where its files are kept here, and what goes wrong with it."""
