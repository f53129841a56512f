"""The run directory `runs/NAME/`: what is in it, its types, and who may do what with it. No torch."""
