"""Try the largest micro-step of a run before the first step, where running out of memory costs least.

Every rank runs it, forward and backward, with the same rows. It shows too whether DeepSpeed keeps every gradient
(sft/trainer/gradients.py). Its gradients are thrown away, and the run's bits are those of a run without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sft.settings.fields import Settings
from sft.steps import Steps
from sft.trainer import batching, gradients
from sft.trainer import engine as engines
from sft.trainer.batching import Indices, MicroSteps
from sft.trainer.data.rows import Rows
from sft.trainer.distributed import World

# Rows of the coming steps that are looked at, and the most promising of these steps, which are cut: parts of a second.
ROWS_LOOKED_AT = 1_000_000
STEPS_CUT = 200
FP16_SCALE = 128.0


def largest(rows: Rows, steps: Steps, first: int, settings: Settings, packing: bool) -> MicroSteps:
    """Return the largest micro-step of the steps from `first` on, the same rows for every rank.

    Twice where its step has several micro-steps: from the second one on, the gradients of those before are kept too.
    """
    expected = promises(rows.lengths, steps, first, settings, packing)
    best, found, number = -1, np.zeros(0, dtype=np.int64), 1
    for i in np.argsort(-expected, kind="stable")[:STEPS_CUT]:
        chosen = batching.rows_of_step(first + int(i), len(rows), steps.global_batch_size, settings.seed)
        micro_steps = batching.micro_steps(chosen, rows.lengths, settings, packing)
        for share in (share for per_rank in micro_steps for share in per_rank):
            if (tokens := batching.tokens(share, rows.lengths, packing)) > best:
                best, found, number = tokens, share, len(micro_steps)
    return [[found] * settings.world_size] * min(2, number)


def promises(lengths: Indices, steps: Steps, first: int, settings: Settings, packing: bool) -> Indices:
    """Return about how many tokens the largest row or micro-step has in each step from `first` on, without cutting."""
    epoch, parts = first // steps.per_epoch, []
    last = min(steps.total, first + ROWS_LOOKED_AT // steps.global_batch_size + 1)
    for number in range(epoch, (last - 1) // steps.per_epoch + 1):
        ordered = lengths[batching.order(len(lengths), settings.seed, number)]
        starts = np.arange(0, len(lengths), steps.global_batch_size)
        longest, total = np.maximum.reduceat(ordered, starts), np.add.reduceat(ordered, starts)
        if not packing:
            parts.append(longest)
            continue
        limits = settings.world_size * np.maximum(settings.micro_step_tokens, longest)
        parts.append(np.maximum(longest, total // (settings.world_size * -(-total // limits))))
    return np.concatenate(parts)[first - epoch * steps.per_epoch :][: last - first]


def run(engine: Any, rows: Rows, micro_steps: MicroSteps, packing: bool, world: World) -> gradients.Found:
    """Run micro-steps forward and backward, and forget their gradients. Return which of them are not kept (all ranks).

    The micro-steps are equal, and have the same rows on every rank, as `largest` returns them.
    """
    moments = torch.empty(engines.moments_to_come(engine), dtype=torch.uint8, device=world.device)
    # Less of fp16's scale than a step has: infinite gradients cannot be compared. Ranks weigh differently, because
    # the average of equal gradients is that of a single rank.
    divisor = max(1.0, float(engine.optimizer.loss_scale) / FP16_SCALE) / (1 + 2 * (world.rank % 2))
    with gradients.Watch(engine.module) as watch:
        for i, per_rank in enumerate(micro_steps):
            torch.manual_seed(0)  # the same dropout
            share = per_rank[world.rank]
            batch = batching.collate(rows.take(share), packing, world.device)
            targets = max(1, rows.target_tokens(share))
            engines.backward(engine, batch, divisor * targets, world, last=i == len(micro_steps) - 1)
    found = watch.compare(engine, len(micro_steps), world)
    engines.forget_gradients(engine)
    del moments  # room that later steps do not have
    return found
