"""How fast the project is, measured: see README.md in this folder."""
