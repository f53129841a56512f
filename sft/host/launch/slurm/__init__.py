"""`LAUNCHER=slurm`: the nodes of a run are the nodes of a Slurm job."""
