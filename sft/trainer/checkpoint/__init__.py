"""Checkpoints that are whole or absent: written beside the training, and resumed on any number of ranks."""
