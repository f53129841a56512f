"""What a run tells people: the console, `state.json`, the trackers, and where its time goes.

Every rank calls its reporter in the same way, and only rank 0's does anything. So the loop need not ask which rank it
is, and nothing here may be a collective operation.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Unpack

import torch

from sft.run import answers, typed_json
from sft.run.directory import Run
from sft.run.records import AnswerLine, Moment, Results, StateChanges, Status
from sft.settings.fields import Settings
from sft.steps import Steps
from sft.trainer.distributed import Pending, World
from sft.trainer.timing import PHASES, Clock
from sft.trainer.trackers.trackers import Trackers, Values


@dataclass(frozen=True)
class StepResult:
    """One optimizer step, as every rank knows it."""

    done: int  # optimizer steps so far, with this one
    loss: float  # mean over the target tokens of the global batch
    learning_rate: float
    grad_norm: Pending | None  # of the whole gradient, before clipping; None if the step is not logged
    tokens: int  # of the global batch, without padding
    target_tokens: int
    skipped_steps: int | None  # so far, by fp16's loss scaler; None in other precisions
    stop: bool  # the run stops after this step


class Reporter:
    """Reports the progress of the run. Does nothing on ranks other than 0."""

    def __init__(self, run: Run, settings: Settings, world: World) -> None:
        self.run, self.settings, self.world = run, settings, world
        self.trackers = Trackers(run, settings) if world.is_main else None
        self.clock = Clock()

    # The run as a whole

    def begin_evaluation(self, moment: Moment) -> None:
        """Say that the evaluation before or after training begins."""
        if self.world.is_main:
            self.run.update_state("evaluating", evaluating=moment, answers=0, total_answers=0)

    def results(self, moment: Moment, step: int, results: Results) -> None:
        """Write the results of the evaluation before or after training, of the model after `step` steps."""
        if self.world.is_main:
            found = self.run.results()
            found = replace(found, before=results) if moment == "before" else replace(found, after=results)
            typed_json.write(self.run.evaluation, found)
        if self.trackers:
            values = {"val/loss": results.loss, "eval/exact_match": results.exact_match}
            for part in results.parts:
                values[f"val/loss/{part.name}"] = part.loss
                values[f"eval/exact_match/{part.name}"] = part.exact_match
            self.trackers.log_once(step, values)
        self.print(f"evaluation {moment} training: {json.dumps(results.numbers())}")

    def write_answers(self, moment: Moment, lines: Sequence[AnswerLine]) -> None:
        """Write all answers of an evaluation. If that fails, its results still hold, and one line says so."""
        if self.world.is_main:
            try:
                answers.write(self.run.answers, moment, lines)
            except OSError as error:
                self.print(f"{self.run.answers}: could not be written ({error.strerror}); going on without")

    def begin_training(self, first_step: int, steps: Steps) -> None:
        """Say that training begins, after `first_step` steps of an earlier attempt."""
        if self.world.is_main:
            epoch = first_step / steps.per_epoch
            self.run.update_state(
                "training", step=first_step, total_steps=steps.total, epoch=epoch,
                tokens_per_second=None, time_left_s=None,  # not those of the last attempt
            )  # fmt: skip
        self.print(f"step {first_step} of {steps.total}: {'resumed' if first_step else 'started'}")

    def begin_steps(self, first_step: int) -> bool:
        """Continue the metrics of an earlier attempt. Return whether it validated `first_step` (on rank 0)."""
        is_validated = self.trackers is not None and self.trackers.resume(first_step)
        self.clock = Clock()
        return is_validated

    def close(self) -> None:
        """Write all pending lines, and end the trackers."""
        if self.trackers:
            self.trackers.close()

    # One step

    def is_logged(self, done: int, steps: Steps) -> bool:
        """Tell whether step number `done` is logged: every LOGGING_STEPS, and the last one."""
        return done % self.settings.logging_steps == 0 or done == steps.total

    def step(self, result: StepResult, steps: Steps) -> None:
        """Report an optimizer step: to the trackers, and twice a second to the console and `state.json`."""
        self.clock.count(result.tokens)
        is_last = result.done == steps.total
        if self.is_logged(result.done, steps):
            self.log_step(result, steps)
        if self.clock.state_is_due() or result.stop or is_last:
            self.show_step(result, steps)
        if result.stop or is_last:
            first_s = self.clock.first_s
            self.add_seconds({"first step": first_s, "training": self.clock.all_s - first_s})

    def log_step(self, result: StepResult, steps: Steps) -> None:
        """Log the numbers of a step."""
        is_cuda = self.world.device.type == "cuda"
        self.log(
            result.done,
            {
                "epoch": result.done / steps.per_epoch,
                "train/loss": result.loss,
                "train/lr": result.learning_rate,
                "train/grad_norm": result.grad_norm,
                "train/tokens": result.tokens,
                "train/target_tokens": result.target_tokens,
                "train/skipped_steps": result.skipped_steps,
                "perf/tokens_per_second": self.clock.tokens_per_second,
                "perf/step_s": self.clock.step_s,
                "mem/peak_gib": torch.cuda.max_memory_allocated() / 2**30 if is_cuda else None,
            },
        )

    def show_step(self, result: StepResult, steps: Steps) -> None:
        """Write the step to `state.json`, and a line to the console."""
        done, loss, speed = result.done, result.loss, self.clock.tokens_per_second
        time_left_s = self.clock.step_s * (steps.total - done)
        self.tell(step=done, epoch=done / steps.per_epoch, loss=loss, tokens_per_second=speed, time_left_s=time_left_s)
        learning_rate = f"lr {result.learning_rate:.3g}"
        self.print(f"step {done}/{steps.total}  loss {loss:.4f}  {learning_rate}  {speed:,.0f} tokens/s")

    # Between steps

    @contextmanager
    def validation(self) -> Iterator[None]:
        """Report that a validation runs inside, and do not count its time as a step's."""
        with self.pause("validation"):
            self.tell("evaluating", evaluating="during", answers=0, total_answers=0)
            yield
            self.tell("training")

    @contextmanager
    def pause(self, phase: str) -> Iterator[None]:
        """Count the time inside as a phase's, and not as a step's."""
        with self.clock.paused(), self.phase(phase):
            yield

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time inside to that of a phase (PHASES)."""
        started = time.monotonic()
        yield
        self.add_seconds({name: time.monotonic() - started})

    # The ways out

    def print(self, text: str) -> None:
        """Print a line to the node's log."""
        if self.world.is_main:
            print(text, flush=True)

    def tell(self, status: Status | None = None, **changes: Unpack[StateChanges]) -> None:
        """Change `state.json`. If that fails, print one line, and continue."""
        if self.world.is_main:
            self.run.tell(status, **changes)

    def log(self, step: int, values: Values) -> None:
        """Send numbers to the trackers under their metric names, such as `val/loss`. None is left out."""
        if self.trackers:
            self.trackers.log(step, values)

    def flush(self) -> None:
        """Write the metrics that are waiting for a number from the GPU."""
        if self.trackers:
            self.trackers.flush()

    def add_seconds(self, seconds: dict[str, float]) -> None:
        """Add to the seconds that the run has spent in each phase, over all its attempts."""
        if self.world.is_main:
            spent = self.run.state().seconds
            total = {phase: round(spent.get(phase, 0.0) + seconds.get(phase, 0.0), 2) for phase in PHASES}
            self.run.tell(seconds=total)
