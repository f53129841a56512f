"""What the nodes of a Slurm partition have, as `sinfo` says it: cores, GPUs, memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sft.errors import UserError
from sft.host.gpus import Gpu
from sft.host.launch.slurm import queue
from sft.host.plan import cards
from sft.host.plan.conditions import DRIVER_GIB
from sft.settings.fields import Settings

GRES = re.compile(r"gpu(?::([^:(),]+))?:(\d+)")  # as in gpu:a100:4(S:0-1)


@dataclass(frozen=True)
class NodeKind:
    """Nodes of a partition that are alike."""

    number: int
    cores: int
    gpus: int  # on each
    card: str  # its name in Slurm; "" if the cluster does not say
    memory_gib: float

    def cores_for(self, ranks: int) -> int:
        """Return a task's share of the cores: as many as belong to its GPUs, or one for each rank."""
        return max(ranks, self.cores * ranks // self.gpus if self.gpus else ranks)


def node_kinds(settings: Settings) -> list[NodeKind]:
    """Return the kinds of nodes in the partition, those with most GPUs first. Raises UserError."""
    partition = ["--partition", settings.slurm_partition] if settings.slurm_partition else []
    lines = queue.call("sinfo", "--noheader", "--format=%D|%c|%G|%m|%P", *partition).splitlines()
    if not lines and settings.slurm_partition:
        raise UserError(f"SLURM_PARTITION={settings.slurm_partition}: has no nodes; `sinfo` lists the partitions")
    if not settings.slurm_partition:  # the default one is marked
        lines = [line for line in lines if line.endswith("*")] or lines
    kinds = [kind_in(*line.split("|")[:4]) for line in lines]
    return sorted(kinds, key=lambda kind: (-kind.gpus, -kind.cores))


def kind_in(number: str, cores: str, gres: str, memory_mib: str) -> NodeKind:
    """Return a kind of nodes from the columns of `sinfo`. A `+` behind a number means "or more"."""
    found = GRES.search(gres)
    name = (found[1] or "") if found else ""
    gpus = int(found[2]) if found else 0
    return NodeKind(int(number), int(cores.rstrip("+")), gpus, name, int(memory_mib.rstrip("+")) / 1024)


def gpus_of(kinds: list[NodeKind], ranks: int) -> list[Gpu]:
    """Return the GPUs of the nodes that have enough for `ranks` each. A card that Slurm does not name has no memory."""
    found: list[Gpu] = []
    for kind in kinds:
        if kind.gpus >= ranks:
            card = cards.find(kind.card.replace("_", " ")) if kind.card else None
            name, gib = (card.name, card.memory_gib + DRIVER_GIB) if card else (kind.card or "GPU", 0.0)
            found += [Gpu(0, name, 0, 0.0, gib, 0, 0.0, "")] * (kind.number * kind.gpus)
    return found
