"""The run directory `runs/NAME/`: what lies in it, its types, and who may do what with it. No torch."""
