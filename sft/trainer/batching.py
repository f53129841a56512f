"""Which rows a step trains on, and how they are split into micro-steps over the ranks.

Every rank computes the whole split from the rows' lengths alone, so nothing is communicated. How a step is split
changes its speed and memory, never its result: the loss is summed over the targets of the whole step.
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

from sft.settings.stages import Effective
from sft.trainer.data.rows import Row
from sft.trainer.packed import Packed

Indices = npt.NDArray[np.int64]
PADDING = 0  # masked and never a target, so any token does
MOST_ROWS_COUNTED = 20  # the bound in fewest_shares counts rows up to this many a share; beyond, tokens decide
MicroSteps = list[list[Indices]]  # [micro_step][rank]: the rows of a rank's share of a micro-step


class MicroBatch(NamedTuple):
    """One rank's share of a micro-step, on its device.

    Packed: all sequences in one, [1, tokens], with their borders in `packed`, positions that restart at each of them,
    and no attention mask. Padded: [sequences, positions] with a mask; positions and `packed` are None.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    position_ids: torch.Tensor | None
    packed: Packed | None
    predicting: torch.Tensor  # [targets]: positions in the flattened batch whose next token is a target
    targets: torch.Tensor  # [targets]: these next tokens


@functools.lru_cache(maxsize=2)
def order(rows: int, seed: int, epoch: int) -> Indices:
    """Return an epoch's order: a permutation of all rows, drawn from (seed, epoch), so that every rank has the same."""
    return np.random.default_rng((seed, epoch)).permutation(rows)


def rows_of_step(step: int, rows: int, global_batch_size: int, seed: int) -> Indices:
    """Return the rows of optimizer step `step`, from 0. The last step of an epoch has the rows that are left."""
    epoch, i = divmod(step, math.ceil(rows / global_batch_size))
    return order(rows, seed, epoch)[i * global_batch_size : (i + 1) * global_batch_size]


def micro_steps(chosen: Indices, lengths: Indices, settings: Effective, packing: bool) -> MicroSteps:
    """Split a step's rows into micro-steps over the ranks, packed or padded."""
    if packing:
        return packed_micro_steps(chosen, lengths, settings.world_size, settings.max_tokens_per_micro_step)
    return padded_micro_steps(chosen, lengths, settings.world_size, settings.batch_size)


def packed_micro_steps(chosen: Indices, lengths: Indices, world_size: int, max_tokens: int) -> MicroSteps:
    """Split a step's rows into few micro-steps of at most `max_tokens` tokens on each rank, in O(n log n).

    The ranks wait for each other in every micro-step, so shares should be few, and nearly equal in tokens. The smallest
    possible number of shares is tried first. If the rows do not fit so evenly, shares are filled one by one, and then
    evened out as far as their number allows. A row longer than `max_tokens` is a share by itself.
    """
    longest_first = chosen[np.argsort(-lengths[chosen], kind="stable")]
    sizes = lengths[longest_first].tolist()
    limit = max(max_tokens, sizes[0])
    number = math.ceil(fewest_shares(lengths[chosen], limit) / world_size)  # of micro-steps
    shares = even_shares(sizes, number * world_size, limit)
    if shares is None:
        shares = full_shares(sizes, limit)
        least, number = number, math.ceil(len(shares) / world_size)
        while number > least and (even := even_shares(sizes, number * world_size, limit)):
            shares, number = even, number - 1
        shares += [[]] * (-len(shares) % world_size)  # a rank without rows joins with a dummy batch: see collate
    # The heaviest shares go into one micro-step, and so on: no rank waits long for another.
    shares.sort(key=lambda share: -sum(sizes[place] for place in share))
    arrays = [longest_first[share] if share else np.empty(0, dtype=np.int64) for share in shares]
    return [arrays[i : i + world_size] for i in range(0, len(arrays), world_size)]


def fewest_shares(sizes: Indices, limit: int) -> int:
    """Return a lower bound on the number of shares: no packing takes fewer.

    One bound is the tokens of all rows over the limit. The others count rows: at most k rows above 1/(k+1) of the limit
    fit into a share, so each of them takes at least 1/k of one (dual feasible functions, Fekete and Schepers 2001).
    """
    needed = -(-int(sizes.sum()) // limit)
    for k in range(1, MOST_ROWS_COUNTED + 1):
        parts, rest = np.divmod((k + 1) * sizes, limit)
        weights = np.where(rest, parts * limit, k * sizes)  # in units of 1 / (k * limit) of a share: whole numbers
        needed = max(needed, -(-int(weights.sum()) // (k * limit)))
    return max(1, needed)


def even_shares(sizes: list[int], number: int, limit: int) -> list[list[int]] | None:
    """Spread rows over `number` shares of nearly equal tokens. Return None if one gets more than `limit`.

    `sizes` are the rows' tokens, longest first; a share is a list of indices into them. Each row goes into the lightest
    share so far (LPT, Graham 1969).
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
    """Fill few shares of at most `limit` tokens: each row goes into the one that it fills up best (best fit).

    `sizes` are the rows' tokens, longest first; a share is a list of indices into them.
    """
    shares: list[list[int]] = []
    rooms: list[int] = []  # tokens that still fit into some share, sorted, without repeats
    having: dict[int, list[int]] = {}  # the shares with exactly so much room
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
        if left >= sizes[-1]:  # otherwise no row fits any more
            if left not in having:
                bisect.insort(rooms, left)
            having.setdefault(left, []).append(share)
    return shares


def padded_micro_steps(chosen: Indices, lengths: Indices, world_size: int, batch_size: int) -> MicroSteps:
    """Split a step's rows into micro-steps of at most `batch_size` rows on each rank, the longest rows first.

    Rows of similar lengths share a micro-step, so that little of it is padding, and no rank waits long for another. If
    fewer rows are left than ranks, some ranks get none.
    """
    longest_first = chosen[np.argsort(-lengths[chosen], kind="stable")]
    number = math.ceil(len(chosen) / (world_size * batch_size))
    groups = np.array_split(longest_first, number * world_size)
    return [groups[i * world_size : (i + 1) * world_size] for i in range(number)]


def tokens(share: Indices, lengths: Indices, packing: bool) -> int:
    """Return the tokens of a share, padding included: what its memory and time depend on."""
    if packing or not len(share):
        return int(lengths[share].sum())
    return len(share) * int(lengths[share].max())


def collate(sequences: Sequence[Row], packing: bool, device: torch.device) -> MicroBatch:
    """Collate rows. Without rows, return a dummy batch without targets: the rank still has to join the collectives."""
    sequences = sequences or [(np.full(2, PADDING, dtype=np.int32), np.zeros(2, dtype=np.bool_))]
    lengths = np.asarray([len(ids) for ids, _ in sequences])
    starts = np.concatenate(([0], np.cumsum(lengths)))  # of each sequence in the flattened batch
    if not packing:
        starts = np.arange(len(sequences) + 1) * int(lengths.max())
    flat = np.full(int(starts[-1]), PADDING, dtype=np.int64)
    next_is_target = np.zeros(len(flat), dtype=np.bool_)
    for start, end, (ids, is_target) in zip(starts[:-1], starts[1:], sequences, strict=True):
        # Padding repeats the last token: some families divide by the norm of a token's embedding, and that of the token
        # for padding is zero.
        flat[start:end] = ids[-1]
        flat[start : start + len(ids)] = ids
        next_is_target[start : start + len(ids) - 1] = is_target[1:]  # never across the border of two sequences
    predicting = np.flatnonzero(next_is_target)

    # From pinned memory, a copy to the GPU does not block the host.
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
