"""Attention over packed sequences with soft capping, sinks and windows, by PyTorch's flex attention, on a GPU.

One Triton kernel is compiled for all lengths. Which keys a token sees is two numbers for each token, so windows and
sequences do not need kernels of their own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from sft.trainer.attention_options import Options
from sft.trainer.indices import CheckedIndices
from sft.trainer.packed import Packed

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


Change = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
BLOCK = 128  # tokens: the side of a block of scores, which is computed or skipped as a whole


@functools.cache
def compiled() -> Callable[..., Any]:
    """Return flex attention, compiled for any number of tokens. The first call of each kind takes seconds."""
    from torch.nn.attention.flex_attention import flex_attention  # imports torch's compiler, which takes a second

    return torch.compile(flex_attention, dynamic=True)


@functools.lru_cache(maxsize=4)  # the windows of one model: every layer of a micro-batch asks for them
def block_mask(packed: Packed, window: int) -> BlockMask:
    """Return which keys each token sees: those of its own sequence up to itself, in a window if there is one.

    Made from the lengths on the host: nothing of tokens x tokens is ever in memory. Behind the tokens is padding up to
    a whole block, which sees itself.
    """
    from torch.nn.attention.flex_attention import BlockMask

    first = first_seen(packed.lengths, window)
    blocks = -(-len(first) // BLOCK)
    padded = np.concatenate((first, np.arange(len(first), blocks * BLOCK)))
    own = np.arange(blocks)
    # The first keys seen grow from token to token, so those of a block's first token decide; all up to itself follow.
    earliest = padded[::BLOCK] // BLOCK
    counts = own - earliest + 1
    indices = np.minimum(earliest[:, None] + own, blocks - 1)
    device = packed.starts.device

    def on_device(array: np.ndarray[Any, np.dtype[Any]]) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.int32)).to(device)

    first_key = on_device(padded)

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (key >= first_key[query])

    return BlockMask.from_kv_blocks(
        on_device(counts)[None, None], on_device(indices)[None, None], BLOCK_SIZE=BLOCK, mask_mod=sees
    )


def first_seen(lengths: list[int], window: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the first token that each token sees, in packed sequences; `window` 0: that of its sequence."""
    sizes = np.asarray(lengths)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.maximum(starts, np.arange(len(starts)) - window + 1) if window else starts


@functools.lru_cache(maxsize=4)
def change_of_scores(size: int, heads: int, scale: float | None, softcap: float, device: torch.device) -> Change | None:
    """Return what turns flex attention's own scores, q k / sqrt(size), into a model's; None for nothing."""
    if scale is None and not softcap:
        return None
    # Tensors, because a kernel for any number of tokens takes no other numbers.
    factors = torch.full((heads,), 1.0 if scale is None else scale * math.sqrt(size), device=device)
    caps = torch.full((heads,), softcap, device=device)

    def scaled(
        score: torch.Tensor, batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        return score * factors[head]

    def scaled_and_capped(
        score: torch.Tensor, batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        return caps[head] * torch.tanh(score * factors[head] / caps[head])

    return scaled_and_capped if softcap else scaled


def flex(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: Packed, options: Options) -> torch.Tensor:
    """Attend with flex attention. Query, key and value are [tokens, heads, size]."""
    from torch.nn.attention.flex_attention import AuxRequest

    tokens, heads, size = query.shape
    scale = None if options.scale == size**-0.5 else options.scale
    change = change_of_scores(size, heads, scale, options.softcap, query.device)
    missing = -tokens % BLOCK
    query, key, value = (F.pad(part.transpose(0, 1), (0, 0, 0, missing))[None] for part in (query, key, value))
    with CheckedIndices.left():  # torch's compiler would follow it into the kernel
        output, seen = compiled()(
            query, key, value, score_mod=change, block_mask=block_mask(packed, options.window),
            enable_gqa=query.shape[1] != key.shape[1], return_aux=AuxRequest(lse=True),
        )  # fmt: skip
    if options.sinks is not None:
        # A sink is one more score in the softmax, whose value is zero: its share is lost.
        kept = torch.sigmoid(seen.lse - options.sinks.float()[:, None])
        output = (output * kept[..., None]).to(query.dtype)
    result: torch.Tensor = output[0, :, :tokens].transpose(0, 1)
    return result
