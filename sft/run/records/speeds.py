"""Speeds that `sft.trainer.probe` measures: it prints them, and `make test-env` keeps them for the plan."""

from __future__ import annotations

from sft.run.light import dataclass
from sft.run.typed_json import Part


@dataclass(frozen=True, kw_only=True)
class LinkSpeeds(Part):
    """What some ranks measured together, in GB/s; 0: not measured."""

    ranks: int
    nodes: int = 1
    backend: str  # nccl or gloo
    all_reduce_gb_s: float  # bus bandwidth as nccl-tests define it: what each link of a ring carries
    gather_gb_s: float = 0.0  # the same of an all-gather, ZeRO-3's way
    to_gpu_gb_s: float = 0.0  # from pinned memory to each GPU, all ranks at once
    from_gpu_gb_s: float = 0.0
