"""The largest micro-step of a run is tried before its first step, where running out of memory costs least.

Every rank runs it, forward and backward, with the same rows. Its gradients are thrown away, and the run's bits are
those of a run without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sft.settings import Settings
from sft.steps import Steps
from sft.trainer import batching
from sft.trainer import engine as engines
from sft.trainer.batching import Indices, MicroSteps
from sft.trainer.data import Rows
from sft.trainer.distributed import World

# Rows of the coming steps that are looked at, and the most promising steps that are cut: some tenths of a second.
ROWS_LOOKED_AT = 2_000_000
STEPS_CUT = 200


def largest(rows: Rows, steps: Steps, first: int, settings: Settings, packing: bool) -> MicroSteps:
    """Return the largest micro-step of the steps from `first` on, for every rank the same rows.

    Twice where its step has several micro-steps: from the second one on, the gradients of those before are kept too.
    """
    last = min(steps.total, first + max(1, ROWS_LOOKED_AT // steps.global_batch_size))
    promises = [
        promise(chosen_of(step, steps, settings), rows.lengths, settings, packing) for step in range(first, last)
    ]
    best: tuple[int, Indices, int] = (-1, np.zeros(0, dtype=np.int64), 1)
    for i in np.argsort(promises, kind="stable")[::-1][:STEPS_CUT]:
        cut = batching.micro_steps(chosen_of(first + int(i), steps, settings), rows.lengths, settings, packing)
        for share in (share for per_rank in cut for share in per_rank):
            if (tokens := batching.tokens(share, rows.lengths, packing)) > best[0]:
                best = (tokens, share, len(cut))
    _, share, number = best
    return [[share] * settings.world_size] * min(2, number)


def chosen_of(step: int, steps: Steps, settings: Settings) -> Indices:
    """Return the rows of a step."""
    return batching.rows_of_step(step, steps.rows, steps.global_batch_size, settings.seed)


def promise(chosen: Indices, lengths: Indices, settings: Settings, packing: bool) -> int:
    """Return about how many tokens the largest micro-step of a step has on a rank, without cutting it."""
    longest = int(lengths[chosen].max())
    if not packing:
        return longest
    total, most = int(lengths[chosen].sum()), max(settings.micro_step_tokens, longest)
    number = -(-total // (settings.world_size * most))
    return max(longest, total // (settings.world_size * number))


def run(engine: Any, rows: Rows, micro_steps: MicroSteps, packing: bool, world: World) -> None:
    """Run micro-steps forward and backward, and forget their gradients (all ranks)."""
    for i, per_rank in enumerate(micro_steps):
        share = per_rank[world.rank]
        batch = batching.collate(rows.take(share), packing, world.device)
        targets = max(1, rows.target_tokens(share))
        engines.backward(engine, batch, targets, world, last=i == len(micro_steps) - 1)
    engines.forget_gradients(engine)
