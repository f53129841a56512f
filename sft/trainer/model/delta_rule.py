"""The gated delta rule in PyTorch, over rows of a batch or over packed sequences.

The same sums as transformers' own code, in fp32. Each chunk needs the inverse of a triangular matrix. transformers
solves for it, one row after another; here it is put together from blocks by products, which suit a GPU.

The chunks of all sequences are computed together, but for the state, which goes from chunk to chunk: the first chunks
of all sequences, then the second ones of those that have one, and so on. So few and large operations are launched, as
few as the longest sequence needs by itself.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sft.trainer.packed import Packed

CHUNK = 64  # tokens
EPSILON = 1e-6


class Inverse(torch.autograd.Function):
    """The inverse of 1 + L for strictly lower triangular matrices L [..., CHUNK, CHUNK]."""

    @staticmethod
    def forward(ctx: Any, lower: torch.Tensor) -> torch.Tensor:
        """Invert blocks on the diagonal, twice as large each time: [A 0; B C] has the inverse [A' 0; -C' B A' C'].

        Whole matrices are multiplied, in which what lies outside of these blocks is zero: three operations each time.
        """
        single, *larger = levels(lower.device)
        inverse = torch.eye(CHUNK, dtype=lower.dtype, device=lower.device) - lower * single
        for below in larger:
            inverse = inverse - inverse @ (lower * below) @ inverse
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        """Return the gradient of L: that of an inverse X is -X' grad X'."""
        (inverse,) = ctx.saved_tensors
        transposed = inverse.transpose(-1, -2)
        return -(transposed @ grads[0] @ transposed).tril(-1)


@functools.lru_cache(maxsize=4)
def levels(device: torch.device) -> list[torch.Tensor]:
    """Return 1 in the lower left quarter of each block on the diagonal, 0 elsewhere: for blocks of 2, 4 … CHUNK."""
    place = torch.arange(CHUNK)
    row, column = place[:, None], place[None, :]
    found = []
    for size in (2**power for power in range(1, CHUNK.bit_length())):
        mask = (row // size == column // size) & (row % size >= size // 2) & (column % size < size // 2)
        found.append(mask.to(device, torch.float32))
    return found


class Rearranged(torch.autograd.Function):
    """Rows of a tensor in another order, some of them several times; the gradient is that of the one at `back`.

    The others have none: what fills chunks up changes nothing. So nothing is added up.
    """

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, places: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        """Return the rows at `places`."""
        ctx.save_for_backward(back)
        return values.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the rows at `back`."""
        (back,) = ctx.saved_tensors
        return grads[0].index_select(0, back), None, None


@dataclass(frozen=True, eq=False)
class Chunks:
    """Sequences cut into chunks of CHUNK tokens, the last of each filled up with its last token.

    Sorted by their number in a sequence, the longest sequences first: those that share a number lie side by side, and
    so do the states that they continue.
    """

    places: torch.Tensor  # int64 [chunks * CHUNK]: the token in each place
    is_token: torch.Tensor  # bool [chunks, 1, CHUNK, 1]: not filling
    back: torch.Tensor  # int64 [tokens]: the place of each token
    sizes: list[int]  # how many sequences have a chunk of each number

    @classmethod
    def of(cls, lengths: list[int], device: torch.device) -> Chunks:
        """Cut sequences of these lengths, which lie one behind the other."""
        sizes = np.asarray(lengths)
        longest_first = np.argsort(-sizes, kind="stable")
        ends, sizes = np.cumsum(sizes)[longest_first], sizes[longest_first]
        number = np.concatenate([np.flatnonzero(sizes > first) for first in range(0, sizes[0], CHUNK)])
        having = [int((sizes > first).sum()) for first in range(0, sizes[0], CHUNK)]
        firsts = np.repeat(np.arange(len(having)) * CHUNK, having)[:, None] + np.arange(CHUNK)
        is_token = firsts < sizes[number, None]
        places = (ends - sizes)[number, None] + np.minimum(firsts, sizes[number, None] - 1)
        back = np.empty(sizes.sum(), dtype=np.int64)
        back[places[is_token]] = np.flatnonzero(is_token)

        def here(array: np.ndarray[Any, Any]) -> torch.Tensor:
            return torch.from_numpy(array).to(device)

        return cls(here(places.ravel()), here(is_token[:, None, :, None]), here(back), having)


@functools.lru_cache(maxsize=4)  # every layer of a micro-batch asks for them
def chunks_of(sequences: Packed) -> Chunks:
    """Return the chunks of packed sequences."""
    return Chunks.of(sequences.lengths, sequences.starts.device)


@functools.lru_cache(maxsize=4)
def chunks_of_batch(rows: int, tokens: int, device: torch.device) -> Chunks:
    """Return the chunks of rows of a batch."""
    return Chunks.of([tokens] * rows, device)


def delta_rule(given: dict[str, Any], sequences: Packed | None) -> tuple[torch.Tensor, None]:
    """Return [rows, tokens, heads, size], and no state.

    The arguments are those of transformers' function: query and key [rows, tokens, key heads, key size], value [rows,
    tokens, heads, size], g [rows, tokens, heads], the logarithm of the state's decay, and beta, the rate at which it
    learns.
    """
    rows, tokens, heads, size = given["value"].shape
    device, kind = given["value"].device, given["query"].dtype
    chunks = chunks_of(sequences) if sequences else chunks_of_batch(rows, tokens, device)

    def in_chunks(name: str) -> torch.Tensor:
        """Return [chunks, heads, CHUNK, size] in fp32."""
        part: torch.Tensor = given[name].flatten(0, 1)
        part = Rearranged.apply(part.reshape(*part.shape[:2], -1), chunks.places, chunks.back).unflatten(0, (-1, CHUNK))
        part = part.transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return part.repeat_interleave(heads // part.shape[1], dim=1) if part.shape[1] < heads else part

    query, key, value, learnt, decay = map(in_chunks, ("query", "key", "value", "beta", "g"))
    if given.get("use_qk_l2norm_in_kernel"):
        query, key = normed(query), normed(key)
    scale = key.shape[-1] ** -0.5
    # What fills a chunk up learns nothing, and nothing decays there: it is as if it were not there.
    learnt = learnt * chunks.is_token
    decay = (decay * chunks.is_token).cumsum(-2)  # from the beginning of the chunk on
    grown, whole = decay.exp(), decay[..., -1:, :].exp()
    to_end = (decay[..., -1:, :] - decay).exp()

    turned = key.transpose(-1, -2)
    later = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=device).triu(1)
    between = (decay - decay.transpose(-1, -2)).masked_fill(later, float("-inf")).exp()
    inverse: torch.Tensor = Inverse.apply((key @ turned * (between * learnt)).tril(-1))
    inverse = inverse * learnt.transpose(-1, -2)
    new = inverse @ value
    read = (inverse * grown.transpose(-1, -2)) @ key
    within = query @ turned * (between * scale)
    query, turned = query * (grown * scale), turned * to_end.transpose(-1, -2)

    # What each chunk changes the state by, in the order of chunks. Chunks and heads are one dimension from here on.
    numbers = [number * heads for number in chunks.sizes]
    parts = zip(*(part.flatten(0, 1).split(numbers) for part in (new, read, query, turned, whole)), strict=True)
    state, changes, seen = None, [], []
    for i, (change, reads, asks, adds, stays) in enumerate(parts):
        if state is not None:
            state = state[: numbers[i]]
            change = torch.baddbmm(change, reads, state, alpha=-1)
            seen.append(asks @ state)
        changes.append(change)
        if i + 1 < len(numbers):
            state = adds @ change if state is None else torch.baddbmm(state * stays, adds, change)
    found = within.flatten(0, 1) @ torch.cat(changes)
    if seen:
        found = torch.cat((found[: numbers[0]], found[numbers[0] :] + torch.cat(seen)))
    found = found.unflatten(0, (-1, heads)).transpose(1, 2).to(kind).reshape(-1, heads, size)
    return found.index_select(0, chunks.back).unflatten(0, (rows, tokens)), None


def normed(tensor: torch.Tensor) -> torch.Tensor:
    """Return vectors of length 1."""
    return tensor * (tensor.square().sum(-1, keepdim=True) + EPSILON).rsqrt()
