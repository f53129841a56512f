"""What a trial of a tiny copy of the model has found out, before the data was prepared."""

from __future__ import annotations

from dataclasses import field

from sft.run.light import dataclass
from sft.run.typed_json import Record


@dataclass(frozen=True, kw_only=True)
class Tried(Record):
    """Which fast ways gave the plain way's loss and gradients; the ranks try them again on the model itself."""

    copy: str = ""  # what the copy is; "": none could be made, so nothing is known
    not_tried: str = ""  # why none could be made
    attention: str | None = None  # the only implementation that is right, if the model's own one is not
    packing: bool = True
    chunked_loss: bool = True
    recomputes: bool = True
    without_kernels: list[str] = field(default_factory=list)  # of Liger
    without_scans: list[str] = field(default_factory=list)  # scans.py
    left_out: list[str] = field(default_factory=list)  # in words, with the reason
    positions: int | None = None  # tokens that the model reads at most, if its configuration says so
    seconds: float = 0.0
