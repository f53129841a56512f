"""Make `.venv`, with whatever python3 the machine has: 3.8 or newer, standard library only (`make check` checks it)."""
