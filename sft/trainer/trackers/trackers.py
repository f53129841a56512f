"""All trackers of a run as one, and numbers that the GPU is still computing."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import NamedTuple

from sft.run.directory import Run
from sft.run.metrics import Line
from sft.settings.fields import Settings
from sft.trainer.distributed import Pending
from sft.trainer.trackers import wandb_tracker
from sft.trainer.trackers.metrics_file import MetricsFile
from sft.trainer.trackers.tracker import Starter, Tracker

STARTERS: tuple[Starter, ...] = (wandb_tracker.start,)
Values = Mapping[str, float | Pending | None]  # None, and numbers that are not finite, are left out


class Waiting(NamedTuple):
    """A line with numbers that the GPU may still be computing."""

    step: int
    time: float
    values: Values


class Trackers:
    """Logs to `metrics.jsonl` from the beginning, and to the other trackers once training begins."""

    def __init__(self, run: Run, settings: Settings) -> None:
        self.run, self.settings = run, settings
        self.file = MetricsFile(run)
        self.others: list[Tracker] = []
        self.are_started = False
        self.new: list[Line] = []  # of this attempt, before the others are started
        self.waiting: Waiting | None = None

    def resume(self, first_step: int) -> bool:
        """Continue after `first_step` steps, and start the other trackers. Return whether this step has been validated.

        A run that was killed may have logged steps after its last checkpoint: their lines are dropped.
        """
        self.file.resume(first_step)
        self.start_others(self.file.logged(first_step))
        return first_step in self.file.validated

    def start_others(self, logged: int) -> None:
        """Start the other trackers, which have had the first `logged` lines in earlier attempts."""
        self.are_started = True
        started = (start(self.run, self.settings, logged) for start in STARTERS)
        self.others = [tracker for tracker in started if tracker is not None]
        for line in self.new:
            for tracker in self.others:
                tracker.log(line)

    def log(self, step: int, values: Values) -> None:
        """Log one line, after `step` optimizer steps.

        A line with a number that the device has not worked out yet waits for the next call: reading it now would make
        the host wait for the GPU, and the GPU then for the next step's kernels.
        """
        self.flush()
        self.waiting = Waiting(step, round(time.time(), 3), values)
        if all(value.ready for value in values.values() if isinstance(value, Pending)):
            self.flush()

    def log_once(self, step: int, values: Values) -> None:
        """Log one line, unless an earlier attempt has logged the same numbers for the same step."""
        numbers = {name: value for name, value in values.items() if value is not None}.items()
        if not any(line.step == step and numbers <= line.values.items() for line in self.file.evaluations):
            self.log(step, values)

    def flush(self) -> None:
        """Log the pending line."""
        if self.waiting is None:
            return
        line = Line(self.waiting.step, finite(self.waiting.values), self.waiting.time)
        self.waiting = None
        if not self.are_started:
            self.new.append(line)
        for tracker in (self.file, *self.others):
            tracker.log(line)

    def close(self) -> None:
        """Log the pending line, and end every tracker."""
        self.flush()
        self.file.close()
        if not self.are_started and self.new:  # nothing was trained: an evaluation alone
            self.start_others(len(self.file.steps))
        for tracker in self.others:
            tracker.close()


def finite(values: Values) -> dict[str, float]:
    """Return the numbers that JSON can write. The gradient norm of a step that fp16's scaler skips is infinite."""
    numbers = {name: value.read()[0] if isinstance(value, Pending) else value for name, value in values.items()}
    return {name: value for name, value in numbers.items() if value is not None and math.isfinite(value)}
