"""What a step trains on: which rows, and how they are cut into micro-steps over the ranks.

Every rank computes the whole cut from the rows' lengths alone, so nothing has to be communicated.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from sft.trainer.data import Rows

Indices = npt.NDArray[np.int64]
IGNORE = -100  # label of a position that is no target, as cross_entropy takes it


class MicroBatch(NamedTuple):
    """Padded sequences [sequences, positions]. `labels[i, t]` is the token after position t, or IGNORE."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor


@functools.lru_cache(maxsize=2)
def order(rows: int, seed: int, epoch: int) -> Indices:
    """Return the order of an epoch: a permutation of all rows drawn from (seed, epoch)."""
    return np.random.default_rng((seed, epoch)).permutation(rows)


def rows_of_step(step: int, rows: int, global_batch_size: int, seed: int) -> Indices:
    """Return the rows that optimizer step `step` (from 0) trains on; the last of an epoch may have fewer."""
    epoch, i = divmod(step, math.ceil(rows / global_batch_size))
    return order(rows, seed, epoch)[i * global_batch_size : (i + 1) * global_batch_size]


def micro_steps(chosen: Indices, lengths: Indices, world_size: int, batch_size: int) -> list[list[Indices]]:
    """Cut a step's rows into micro-steps: ``result[micro_step][rank]`` are at most `batch_size` rows.

    Rows of like length go together, so that there is little padding and the ranks of a micro-step have like work.
    A rank may get no row where fewer are left than ranks.
    """
    number = math.ceil(len(chosen) / (world_size * batch_size))
    by_length = chosen[np.argsort(-lengths[chosen], kind="stable")]
    groups = np.array_split(by_length, number * world_size)
    return [groups[i * world_size : (i + 1) * world_size] for i in range(number)]


def collate(rows: Rows, chosen: Indices, pad_id: int, device: torch.device) -> MicroBatch:
    """Return the micro-batch of the chosen rows; of none, one without targets, so that every rank takes part."""
    sequences = [rows[int(index)] for index in chosen]
    width = max([len(ids) for ids, _ in sequences], default=2)
    shape = (max(1, len(sequences)), width)
    input_ids = torch.full(shape, pad_id, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORE, dtype=torch.long)
    if not sequences:
        attention_mask[:] = 1
    for i, (ids, is_target) in enumerate(sequences):
        tokens = torch.from_numpy(ids.astype(np.int64))
        input_ids[i, : len(ids)] = tokens
        attention_mask[i, : len(ids)] = 1
        targets = torch.from_numpy(is_target[1:].astype(bool))
        labels[i, : len(ids) - 1] = torch.where(targets, tokens[1:], IGNORE)
    return MicroBatch(*(part.to(device, non_blocking=True) for part in (input_ids, attention_mask, labels)))
