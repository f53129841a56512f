"""If a loss or gradient is not finite, end the run before anything is saved, and name the rows of that step.

fp16 is another matter: there an infinite gradient is the scaler's sign to scale less, and the step is skipped.
"""

from __future__ import annotations

from sft.errors import NOT_FINITE, RunFailed, SftError
from sft.run.directory import Run
from sft.settings.fields import Settings
from sft.trainer import distributed
from sft.trainer.batching import Indices
from sft.trainer.data import prepare
from sft.trainer.distributed import World

SHOWN = 32  # rows that are named


def fail(run: Run, settings: Settings, step: int, what: str, chosen: Indices, world: World) -> None:
    """End the run because `what` (the loss, the gradient) of a step is not finite (all ranks). Raises RunFailed."""
    reason = f"step {step}: the {what} {NOT_FINITE}"
    if world.is_main:
        rows = places(settings, chosen)
        more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
        remedy = f"look at these rows, lower LEARNING_RATE or use PRECISION=fp32; {run.last_checkpoint()} stays"
        run.fail(f"{reason}; its rows: {', '.join(rows[:SHOWN])}{more}; {remedy}")
    distributed.barrier()  # the reason with the rows is there
    raise RunFailed(reason)


def places(settings: Settings, chosen: Indices) -> list[str]:
    """Return where training rows stand: file and line, or the number in the data set. Reads the source again."""
    wanted = {int(index) for index in chosen}
    try:
        training, _ = prepare.splits(settings)
        found = {i: where for i, (where, _) in zip(range(max(wanted) + 1), training, strict=False) if i in wanted}
    except (SftError, OSError):  # gone by now
        found = {}
    return [found.get(i, f"training row {i}") for i in sorted(wanted)]
