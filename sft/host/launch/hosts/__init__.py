"""`LAUNCHER=hosts`: the nodes of a run are machines that ssh reaches, without a scheduler."""
