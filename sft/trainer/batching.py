"""What a step trains on: which rows, and how they are cut into micro-steps over the ranks.

Every rank computes the whole cut from the rows' lengths alone, so nothing has to be communicated. The cut changes
speed and memory, never the result: the loss is summed over the targets of the whole step.
"""

from __future__ import annotations

import bisect
import functools
import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from sft.settings.fields import Settings
from sft.trainer.attention import Packed
from sft.trainer.data.rows import Row

Indices = npt.NDArray[np.int64]
PADDING = 0  # masked and never a target: any token serves
WHOLE_ROWS = 20  # of a share, up to which their number is counted beside their tokens
MicroSteps = list[list[Indices]]  # [micro_step][rank]: the rows that this rank takes in this micro-step


class MicroBatch(NamedTuple):
    """The tokens of one rank's share of a micro-step.

    Packed: one line [1, tokens] of all sequences, whose borders are in `packed`; there is no attention mask.
    Padded: [sequences, positions] with a mask, and `packed` is None.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    position_ids: torch.Tensor | None
    packed: Packed | None
    predicting: torch.Tensor  # [targets]: flat positions whose next token is a target
    targets: torch.Tensor  # [targets]: those next tokens


@functools.lru_cache(maxsize=2)
def order(rows: int, seed: int, epoch: int) -> Indices:
    """Return the order of an epoch: a permutation of all rows drawn from (seed, epoch)."""
    return np.random.default_rng((seed, epoch)).permutation(rows)


def rows_of_step(step: int, rows: int, global_batch_size: int, seed: int) -> Indices:
    """Return the rows that optimizer step `step` (from 0) trains on; the last of an epoch may have fewer."""
    epoch, i = divmod(step, math.ceil(rows / global_batch_size))
    return order(rows, seed, epoch)[i * global_batch_size : (i + 1) * global_batch_size]


def micro_steps(chosen: Indices, lengths: Indices, settings: Settings, packing: bool) -> MicroSteps:
    """Cut a step's rows into micro-steps over the ranks, packed or padded."""
    if packing:
        return packed_micro_steps(chosen, lengths, settings.world_size, settings.micro_step_tokens)
    return padded_micro_steps(chosen, settings.world_size, settings.batch_size)


def packed_micro_steps(chosen: Indices, lengths: Indices, world_size: int, max_tokens: int) -> MicroSteps:
    """Cut a step's rows into few micro-steps of at most `max_tokens` tokens on each rank, in O(n log n).

    The shares have nearly the same number of tokens if so few of them can; otherwise they are filled up one by one. A
    row longer than `max_tokens` has a share of its own.
    """
    longest_first = chosen[np.argsort(-lengths[chosen], kind="stable")]
    sizes = lengths[longest_first].tolist()
    limit = max(max_tokens, sizes[0])
    number = math.ceil(fewest_shares(lengths[chosen], limit) / world_size)
    shares = even_shares(sizes, number * world_size, limit)
    if shares is None:
        shares = full_shares(sizes, limit)
        least, number = number, math.ceil(len(shares) / world_size)
        while number > least and (even := even_shares(sizes, number * world_size, limit)):
            shares, number = even, number - 1
        shares += [[]] * (-len(shares) % world_size)
    # Micro-steps have ranks of like work: the heaviest shares together.
    shares.sort(key=lambda share: -sum(sizes[place] for place in share))
    arrays = [longest_first[share] if share else np.empty(0, dtype=np.int64) for share in shares]
    return [arrays[i : i + world_size] for i in range(0, len(arrays), world_size)]


def fewest_shares(sizes: Indices, limit: int) -> int:
    """Return a number of shares that no packing can do without.

    Counted are all tokens, and for each k the rows of which a share takes k at most: one above 1/(k+1) of the limit
    takes at least 1/k of a share (dual feasible functions, Fekete and Schepers 2001).
    """
    needed = -(-int(sizes.sum()) // limit)
    for k in range(1, WHOLE_ROWS + 1):
        parts, rest = np.divmod((k + 1) * sizes, limit)
        weights = np.where(rest, parts * limit, k * sizes)  # times k * limit, so that they are whole
        needed = max(needed, -(-int(weights.sum()) // (k * limit)))
    return max(1, needed)


def even_shares(sizes: list[int], number: int, limit: int) -> list[list[int]] | None:
    """Return the places of rows, longest first, in `number` shares of nearly the same tokens; None if one has too many.

    Each row goes into the lightest share (LPT, Graham 1969).
    """
    shares: list[list[int]] = [[] for _ in range(number)]
    lightest = [(0, share) for share in range(number)]
    for place, size in enumerate(sizes):
        tokens, share = lightest[0]
        if tokens + size > limit:
            return None
        heapq.heapreplace(lightest, (tokens + size, share))
        shares[share].append(place)
    return shares


def full_shares(sizes: list[int], limit: int) -> list[list[int]]:
    """Return the places of rows, longest first, in few shares: each row goes where the least room is left behind it."""
    shares: list[list[int]] = []
    rooms: list[int] = []  # that shares have left, sorted, each once
    having: dict[int, list[int]] = {}  # the shares with so much room
    for place, size in enumerate(sizes):
        found = bisect.bisect_left(rooms, size)
        if found < len(rooms):
            room = rooms[found]
            share = having[room].pop()
            if not having[room]:
                del rooms[found], having[room]
        else:
            room, share = limit, len(shares)
            shares.append([])
        shares[share].append(place)
        left = room - size
        if left >= sizes[-1]:
            if left not in having:
                bisect.insort(rooms, left)
            having.setdefault(left, []).append(share)
    return shares


def padded_micro_steps(chosen: Indices, world_size: int, batch_size: int) -> MicroSteps:
    """Cut a step's rows into micro-steps of at most `batch_size` rows on each rank, in the order that they come in.

    A rank may get no row where fewer are left than ranks.
    """
    number = math.ceil(len(chosen) / (world_size * batch_size))
    groups = np.array_split(chosen, number * world_size)
    return [groups[i * world_size : (i + 1) * world_size] for i in range(number)]


def tokens(share: Indices, lengths: Indices, packing: bool) -> int:
    """Return the tokens of a rank's share of a micro-step, padding included."""
    if packing or not len(share):
        return int(lengths[share].sum())
    return len(share) * int(lengths[share].max())


def collate(sequences: Sequence[Row], packing: bool, device: torch.device) -> MicroBatch:
    """Return the micro-batch of rows; of none, one without targets, so that every rank takes part."""
    sequences = sequences or [(np.full(2, PADDING, dtype=np.int32), np.zeros(2, dtype=np.bool_))]
    lengths = np.asarray([len(ids) for ids, _ in sequences])
    starts = np.concatenate(([0], np.cumsum(lengths)))
    if not packing:
        starts = np.arange(len(sequences) + 1) * int(lengths.max())
    flat = np.full(int(starts[-1]), PADDING, dtype=np.int64)
    next_is_target = np.zeros(len(flat), dtype=np.bool_)
    for start, (ids, is_target) in zip(starts, sequences, strict=False):
        flat[start : start + len(ids)] = ids
        next_is_target[start : start + len(ids) - 1] = is_target[1:]
    predicting = np.flatnonzero(next_is_target)

    def on_device(array: npt.NDArray[np.generic]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)

    targets = (on_device(predicting), on_device(flat[predicting + 1]))
    if packing:
        positions = np.arange(len(flat)) - np.repeat(starts[:-1], lengths)
        packed = Packed(on_device(starts.astype(np.int32)), lengths.tolist())
        return MicroBatch(on_device(flat)[None], None, on_device(positions)[None], packed, *targets)
    mask = np.arange(int(lengths.max())) < lengths[:, None]
    shape = mask.shape
    return MicroBatch(on_device(flat).view(shape), on_device(mask.astype(np.int64)), None, None, *targets)
