"""The arithmetic of a run: how many optimizer steps its rows make."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sft.nouns import counted
from sft.settings.fields import Settings
from sft.settings.stages import Resolved


@dataclass(frozen=True)
class Steps:
    """The optimizer steps of a run over `rows` training rows, `global_batch_size` rows per step.

    The last step of an epoch takes the remaining rows, so no row is dropped.
    """

    rows: int
    global_batch_size: int
    per_epoch: int
    total: int
    warmup: int

    @classmethod
    def of(cls, settings: Settings, rows: int) -> Steps:
        batch = settings.sequences_per_step
        per_epoch = math.ceil(rows / batch)
        total = per_epoch * settings.max_epochs
        if settings.max_steps:
            total = min(total, settings.max_steps)
        return cls(rows, batch, per_epoch, total, math.ceil(settings.warmup_ratio * total))

    def learning_rate(self, settings: Resolved, step: int) -> float:
        """Return the learning rate of step `step` (from 0): warm-up to the peak, then the schedule.

        It is never 0: the first warm-up step has 1/warmup of the peak, and the schedule would reach 0 only after the
        last step.
        """
        if step < self.warmup:
            return settings.learning_rate * (step + 1) / self.warmup
        if settings.lr_scheduler == "constant":
            return settings.learning_rate
        done = (step - self.warmup) / max(1, self.total - self.warmup)
        factor = 1 - done if settings.lr_scheduler == "linear" else (1 + math.cos(math.pi * done)) / 2
        return settings.learning_rate * factor

    def describe(self, settings: Settings) -> list[str]:
        """Return the arithmetic of a step and of the run as lines for the user."""
        ranks, card = settings.world_size, "GPU" if settings.device == "cuda" else "process"
        cards = card + ("" if ranks == 1 else "es" if card == "process" else "s")
        if settings.global_batch_size:
            at_once = "" if settings.packing else f", {settings.batch_size} at once on each at most"
            step = f"{self.global_batch_size} sequences per step over {ranks} {cards}{at_once}"
        else:
            accumulation = settings.gradient_accumulation_steps
            times = f" x {accumulation} micro-steps" if accumulation > 1 else ""
            step = f"{settings.batch_size} sequences x {ranks} {cards}{times} = {self.global_batch_size} per step"
        rows, steps, total = counted(self.rows, "row"), counted(self.per_epoch, "step"), counted(self.total, "step")
        is_cut = self.total < self.per_epoch * settings.max_epochs
        run = f"{total}: MAX_STEPS" if is_cut else f"x {counted(settings.max_epochs, 'epoch')} = {total}"
        return [step, f"{rows} / {self.global_batch_size} = {steps} an epoch, {run}"]
