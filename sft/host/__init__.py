"""Code that runs beside the user, or once per node. Imports no torch, so every task starts at once."""
