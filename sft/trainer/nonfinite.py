"""If a loss or gradient is not finite, end the run before anything is saved, and name the rows of that step.

In fp16 it does not: an infinite gradient only tells the loss scaler to scale less, and the step is skipped.
"""

from __future__ import annotations

import math

from deepspeed import DeepSpeedEngine

from sft.errors import RunFailed, SftError
from sft.run.directory import Run
from sft.run.records import Failure
from sft.settings.fields import Settings
from sft.trainer import distributed
from sft.trainer.batching import Indices
from sft.trainer.data import sources
from sft.trainer.distributed import World

SHOWN = 32  # rows that are named


def problem(engine: DeepSpeedEngine, loss: float, settings: Settings) -> str:
    """Return which of "loss" and "gradient" is not finite after a step; "" if both are, and in fp16 anyway.

    Every rank comes to the same answer: the loss is that of the global batch, and the gradient's norm is too. DeepSpeed
    skips a step whose gradient is not finite, in every precision.
    """
    if settings.precision == "fp16":
        return ""
    if not math.isfinite(loss):
        return "loss"
    return "gradient" if engine.skipped_steps else ""


def fail(run: Run, settings: Settings, step: int, what: str, chosen: Indices, world: World) -> None:
    """End the run because `what` (the loss, the gradient) of a step is not finite (all ranks). Raises RunFailed.

    `chosen`: the rows of the data set that the step's sequences are of.
    """
    reason = f"step {step}: the {what} is not finite"
    if world.is_main:
        rows = places(settings, chosen)
        more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
        remedy = f"look at these rows, lower LEARNING_RATE or use PRECISION=fp32; {run.last_checkpoint()} stays"
        named = f"{reason}; its rows: {', '.join(rows[:SHOWN])}{more}; {remedy}"
        run.fail(Failure(kind="not_finite", reason=named, rank=world.rank))
    distributed.barrier()  # until rank 0 has written the reason with the rows: the first reason is kept
    raise RunFailed(reason, "not_finite")


def places(settings: Settings, chosen: Indices) -> list[str]:
    """Return where training rows come from: file and line, or their number in the data set. Reads the source again."""
    numbers = {int(index) for index in chosen}
    try:
        training, _ = sources.splits(settings)
        found = {i: where for i, (where, _) in zip(range(max(numbers) + 1), training, strict=False) if i in numbers}
    except (SftError, OSError):  # the source is gone by now
        found = {}
    return [found.get(i, f"training row {i}") for i in sorted(numbers)]
