"""What the nodes of a run may take: that of this machine, or of a cluster's nodes."""

from __future__ import annotations

from dataclasses import dataclass

from sft import resources
from sft.host.gpus import Gpu

PARTITION = "in the partition"  # of a cluster
HOSTS = "on the hosts"


@dataclass(frozen=True)
class Offer:
    """What there is for all nodes of a run together."""

    gpus: list[Gpu]
    cores: int
    host_gib: float = 0.0  # main memory of a node; 0: what is free here
    where: str = "here"  # in words, behind "4 GPUs are"

    @classmethod
    def of_this_machine(cls, here: list[Gpu], where: str = "here") -> Offer:
        """Return the GPUs that this program may use, and its cores."""
        return cls(here, resources.cores(), where=where)
