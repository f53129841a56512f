"""Fill `.venv`: torch for the machine's driver, then all other packages. Runs in `.venv`, standard library only."""
