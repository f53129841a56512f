"""Try the largest micro-step of a run before the first step, where running out of memory costs least.

Every rank runs it forward and backward, with the same rows. It also shows whether DeepSpeed keeps every gradient
(gradients.py). The gradients are thrown away: the training after it is equal, bit by bit, to one without it.
"""

from __future__ import annotations

import numpy as np
import torch
from deepspeed import DeepSpeedEngine

from sft.settings.stages import Effective
from sft.steps import Steps
from sft.trainer import batching, gradients
from sft.trainer.batching import Indices, MicroSteps
from sft.trainer.data.rows import Rows
from sft.trainer.distributed import World
from sft.trainer.engine import backward, forget_gradients, missing_moments_bytes

# The search for the largest micro-step takes well under a second: it looks at so many rows of the coming steps, and
# splits only the most promising steps into micro-steps.
ROWS_LOOKED_AT = 1_000_000
STEPS_SPLIT = 200
FP16_SCALE = 128.0


def largest_micro_steps(rows: Rows, steps: Steps, first: int, settings: Effective, packing: bool) -> MicroSteps:
    """Return the largest micro-step of the steps from `first` on, with the same rows on every rank.

    Twice, if its step has several: from the second on, the gradients of those before take memory too.
    """
    expected = expected_tokens(rows.lengths, steps, first, settings, packing)
    best, found, number = -1, np.zeros(0, dtype=np.int64), 1
    for i in np.argsort(-expected, kind="stable")[:STEPS_SPLIT]:
        chosen = batching.rows_of_step(first + int(i), len(rows), steps.global_batch_size, settings.seed)
        micro_steps = batching.micro_steps(chosen, rows.lengths, settings, packing)
        for share in (share for per_rank in micro_steps for share in per_rank):
            if (tokens := batching.tokens(share, rows.lengths, packing)) > best:
                best, found, number = tokens, share, len(micro_steps)
    return [[found] * settings.world_size] * min(2, number)


def expected_tokens(lengths: Indices, steps: Steps, first: int, settings: Effective, packing: bool) -> Indices:
    """Estimate the tokens of the largest micro-step of each step from `first` on, without splitting the steps."""
    epoch, parts = first // steps.per_epoch, []
    last = min(steps.total, first + ROWS_LOOKED_AT // steps.global_batch_size + 1)
    for number in range(epoch, (last - 1) // steps.per_epoch + 1):
        ordered = lengths[batching.order(len(lengths), settings.seed, number)]
        starts = np.arange(0, len(lengths), steps.global_batch_size)
        longest, total = np.maximum.reduceat(ordered, starts), np.add.reduceat(ordered, starts)
        if not packing:
            parts.append(longest)
            continue
        limits = settings.world_size * np.maximum(settings.max_tokens_per_micro_step, longest)
        parts.append(np.maximum(longest, total // (settings.world_size * -(-total // limits))))
    return np.concatenate(parts)[first - epoch * steps.per_epoch :][: last - first]


def run(engine: DeepSpeedEngine, rows: Rows, micro_steps: MicroSteps, packing: bool, world: World) -> gradients.Found:
    """Run micro-steps forward and backward, and forget their gradients (all ranks). Return which were lost on the way.

    The micro-steps must be equal, with the same rows on every rank, as `largest_micro_steps` returns them.
    """
    # AdamW allocates its moments in its first step. Later micro-steps must fit beside them, so this one must too.
    moments = torch.empty(missing_moments_bytes(engine), dtype=torch.uint8, device=world.device)
    # The ranks' losses get different factors: the average of equal gradients would be that of any one rank, and hide a
    # missing reduction.
    factor = 1 + 2 * (world.rank % 2)
    with gradients.Watch(engine.module) as watch:
        for i, per_rank in enumerate(micro_steps):
            one(engine, rows, per_rank[world.rank], packing, world, factor, last=i == len(micro_steps) - 1)
    found = watch.compare(engine, len(micro_steps), world)
    forget_gradients(engine)
    del moments
    return found


def norms(engine: DeepSpeedEngine, rows: Rows, share: Indices, packing: bool, world: World) -> dict[str, float]:
    """Return the norm of each trained weight's gradient for some rows, as autograd computes it (all ranks)."""
    with gradients.Watch(engine.module) as watch:
        one(engine, rows, share, packing, world, factor=1, last=True)
    forget_gradients(engine)
    return {name: float(sum(found)) for name, found in watch.norms.items()}


def one(
    engine: DeepSpeedEngine, rows: Rows, share: Indices, packing: bool, world: World, factor: float, last: bool
) -> None:
    """Run a micro-step forward and backward, its loss multiplied by a factor (all ranks)."""
    torch.manual_seed(0)  # the same dropout
    # A smaller loss scale than fp16 starts with: infinite gradients could not be compared.
    divisor = max(1.0, float(engine.optimizer.loss_scale) / FP16_SCALE) / factor
    batch = batching.collate(rows.take(share), packing, world.device)
    backward(engine, batch, divisor * max(1, rows.target_tokens(share)), world, last)
