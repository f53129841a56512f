"""Checkpoints that are whole or absent: written while training continues, resumed on any number of ranks."""
