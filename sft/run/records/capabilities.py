"""`capabilities.json`: which fast ways the model of a run goes on its device, and which it cannot."""

from __future__ import annotations

from dataclasses import field

from sft.run.light import dataclass
from sft.run.typed_json import Record


@dataclass(frozen=True, kw_only=True)
class Capabilities(Record):
    """What was tried on the model before its first step, and what came of it."""

    model: str  # its class
    device: str
    precision: str
    attention: str  # transformers' name of the implementation in use
    packing: bool  # several rows in one sequence, kept apart
    chunked_loss: bool
    recomputes: bool  # activations, in the backward pass
    kernels: list[str]  # of Liger, in use
    scans: list[str] = field(default_factory=list)  # faster versions of functions that mix tokens, in use
    trained_share: float  # of the weights, adapters included
    frozen: str = ""  # the parts that text does not pass: towers for pictures and sound
    dropout: dict[str, float] = field(default_factory=dict)  # the shares that its config.json has dropped at random
    left_out: list[str]  # in words, with the reason
    copy: str = ""  # the tiny copy on which gradients were compared before the data was prepared; "": none
    not_tried: str = ""  # why there is none
