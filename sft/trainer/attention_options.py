"""What a model asks of its attention, whatever kernel computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from sft.trainer.packed import Packed


class Options(NamedTuple):
    """What a model asks of its attention."""

    scale: float | None  # of the scores; None: 1 / sqrt(size)
    window: int  # tokens that a token attends to, itself included; 0: all before it
    dropout: float
    softcap: float = 0.0  # scores are softcap * tanh(score / softcap); 0: as they are
    # One more score of every token, of value zero: [heads], or [sequences, heads, tokens, 1] if they are not packed.
    sinks: torch.Tensor | None = None


# (query, key, value) [tokens, heads, size], packed, options -> [tokens, heads, size]
Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Packed, Options], torch.Tensor]
