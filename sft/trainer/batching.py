"""What a step trains on: which rows, and how they are cut into micro-steps over the ranks.

Every rank computes the whole cut from the rows' lengths alone, so nothing has to be communicated. The cut changes
speed and memory, never the result: the loss is summed over the targets of the whole step.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from sft.settings import Settings
from sft.trainer.attention import Packed
from sft.trainer.data import Row

Indices = npt.NDArray[np.int64]
PADDING = 0  # masked and never a target: any token serves
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
    """Cut a step's rows into the fewest micro-steps of at most `max_tokens` tokens on each rank.

    The longest row goes first, always into the lightest share (LPT, Graham 1969), so that all shares have nearly the
    same number of tokens. A row longer than `max_tokens` has a share of its own.
    """
    longest_first = chosen[np.argsort(-lengths[chosen], kind="stable")]
    limit = max(max_tokens, int(lengths[longest_first[0]]))
    number = math.ceil(int(lengths[chosen].sum()) / (world_size * limit))
    while True:
        shares: list[list[int]] = [[] for _ in range(number * world_size)]
        lightest = [(0, share) for share in range(len(shares))]
        for row in longest_first:
            tokens, share = lightest[0]
            heapq.heapreplace(lightest, (tokens + int(lengths[row]), share))
            shares[share].append(int(row))
        if max(lightest)[0] <= limit:
            break
        number += 1
    heaviest_first = [shares[share] for _, share in sorted(lightest, key=lambda item: (-item[0], item[1]))]
    arrays = [np.asarray(share, dtype=np.int64) for share in heaviest_first]
    return [arrays[i * world_size : (i + 1) * world_size] for i in range(number)]


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
