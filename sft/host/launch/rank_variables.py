"""What a scheduler tells a node program about its place among the nodes, in variables of the environment."""

from __future__ import annotations

import os
import re

# One program on each node, so that its number is that of the node.
NODE_RANK = (
    "NODE_RANK",  # by hand
    "PET_NODE_RANK",  # Kubeflow's Trainer, and torchrun
    "SLURM_NODEID",  # srun
    "SKYPILOT_NODE_RANK",
    "OMPI_COMM_WORLD_RANK",  # mpirun
)
# Where the first node is. SkyPilot lists the addresses of all nodes, one a line.
MASTER_ADDRESS = ("MASTER_ADDR", "PET_MASTER_ADDR", "SKYPILOT_NODE_IPS", "SLURM_LAUNCH_NODE_IPADDR")
NODES = ("PET_NNODES", "SLURM_STEP_NUM_NODES", "SKYPILOT_NUM_NODES", "OMPI_COMM_WORLD_SIZE")

# How many programs a scheduler has started on a node, by its variable for the node's rank; and what starts one alone.
PROGRAMS = {
    "SLURM_NODEID": ("SLURM_STEP_TASKS_PER_NODE", "srun --ntasks-per-node=1"),
    "OMPI_COMM_WORLD_RANK": ("OMPI_COMM_WORLD_LOCAL_SIZE", "mpirun --map-by ppr:1:node"),
}


def master_address() -> str:
    """Return the first node's name or address; "" if no variable says it."""
    found = (os.environ.get(name, "").split() for name in MASTER_ADDRESS)
    return next((words[0] for words in found if words), "")


def named_by() -> str:
    """Return the variable that says where the first node is."""
    return first_set(MASTER_ADDRESS)


def nodes() -> tuple[str, int] | None:
    """Return the number of nodes that a scheduler has started, with the variable that says it; None without one."""
    found = ((name, os.environ.get(name, "")) for name in NODES)
    return next(((name, int(value)) for name, value in found if value.isdecimal()), None)


def node_rank() -> int | None:
    """Return this node's rank, or None if no variable says it."""
    value = os.environ.get(ranked_by(), "").strip()
    return int(value) if value.isdecimal() else None


def several_on_a_node() -> tuple[str, str, str] | None:
    """Return the variable that says so, its value and the remedy, if a scheduler has started more than one program."""
    name, remedy = PROGRAMS.get(ranked_by(), ("", ""))
    value = os.environ.get(name, "") if name else ""
    counts = re.findall(r"\d+", re.sub(r"\(x\d+\)", "", value))  # of Slurm, such as 4(x2),1
    return (name, value, remedy) if any(int(count) > 1 for count in counts) else None


def ranked_by() -> str:
    """Return the variable that says this node's rank; its value may be no number."""
    return first_set(NODE_RANK)


def first_set(names: tuple[str, ...]) -> str:
    """Return the first of these variables that is not empty; the first of all if each is."""
    return next((name for name in names if os.environ.get(name, "").strip()), names[0])
