"""What a scheduler tells a node program about its place among the nodes, in variables of the environment."""

from __future__ import annotations

import os

# One program on each node, so that its number is that of the node.
NODE_RANK = (
    "NODE_RANK",  # by hand
    "PET_NODE_RANK",  # Kubeflow's Trainer, and torchrun
    "SLURM_NODEID",  # srun
    "SKYPILOT_NODE_RANK",
    "OMPI_COMM_WORLD_RANK",  # mpirun
)


def node_rank() -> int | None:
    """Return this node's rank, or None if no variable says it."""
    found = (os.environ.get(name, "") for name in NODE_RANK)
    return next((int(value) for value in found if value.isdecimal()), None)
