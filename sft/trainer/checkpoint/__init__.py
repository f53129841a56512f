"""Checkpoints that are complete or absent: written while training continues, resumed on any number of ranks."""
