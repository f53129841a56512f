"""Where a run's numbers go: `metrics.jsonl` always, Weights & Biases beside it. Rank 0 only."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from sft.run import files
from sft.run.directory import Run
from sft.settings.fields import Settings
from sft.trainer.distributed import Pending
from sft.trainer.trackers import wandb_process

FINISH_S = 60  # for W&B to send what is left; the rest stays in the run directory


class Metrics:
    """Writes metrics of a run. On the other ranks use NoMetrics."""

    def __init__(self, run: Run, settings: Settings) -> None:
        """Open `metrics.jsonl` behind what earlier attempts have written."""
        self.run, self.settings = run, settings
        self.line: dict[str, Any] = {}
        self.tracker: Tracker | None = None
        self.earlier = list(run.read_metrics())
        self.open(self.earlier)

    def open(self, lines: list[dict[str, Any]]) -> None:
        """Begin the file with these lines."""
        files.write_whole(self.run.metrics, "".join(json.dumps(line) + "\n" for line in lines))
        self.file = self.run.metrics.open("a", buffering=1)
        self.written = 0

    def resume(self, first_step: int) -> bool:
        """Go on after `first_step` steps: later lines of a lost attempt are dropped. Return whether it was validated.

        From here on W&B has what is logged.
        """
        lines = list(self.run.read_metrics())
        kept = [line for line in lines if line["step"] <= first_step]
        if len(kept) < len(lines):
            self.file.close()
            self.open(kept)
        self.track(sum(line["step"] <= first_step for line in self.earlier))
        return any(line["step"] == first_step and "val/loss" in line for line in kept)

    def track(self, logged: int) -> None:
        """Start W&B, which has had the first `logged` lines in earlier attempts."""
        if self.settings.wandb_mode != "disabled":
            self.tracker = Tracker(self.run, logged)
        else:
            self.run.tell(wandb=None)

    def log(self, step: int, **values: Any) -> None:
        """Write one line; names have `_` before the first word's end instead of `/` (train_loss -> train/loss).

        A line with a number that the device has not worked out yet waits for the next call.
        """
        self.flush()
        self.line = {"step": step, "time": round(time.time(), 3)} | {
            name.replace("_", "/", 1): value for name, value in values.items() if value is not None
        }
        if all(value.ready for value in values.values() if isinstance(value, Pending)):
            self.flush()

    def log_evaluation(self, step: int, found: dict[str, Any]) -> None:
        """Write what the evaluation before or after training found, unless it stands there already."""
        values = {"val/loss": found["loss"], "eval/exact_match": found["exact_match"]}
        values = {name: value for name, value in values.items() if value is not None}
        if not any(line["step"] == step and values.items() <= line.items() for line in self.earlier):
            self.log(step, **{name.replace("/", "_", 1): value for name, value in values.items()})

    def flush(self) -> None:
        """Write the line that waits."""
        numbers = {name: as_number(value) for name, value in self.line.items()}
        self.line = {}
        if numbers:
            self.file.write(json.dumps({name: value for name, value in numbers.items() if value is not None}) + "\n")
            self.written += 1
        if self.tracker:
            self.tracker.look()

    def close(self) -> None:
        """Flush everything."""
        self.flush()
        os.fsync(self.file.fileno())  # a finished run has the lines of all its steps
        self.file.close()
        if self.tracker is None and self.written:  # an evaluation alone
            self.track(len(self.earlier))
        if self.tracker:
            self.tracker.close()


class NoMetrics:
    """Takes the place of Metrics on the ranks that write nothing."""

    def resume(self, first_step: int) -> bool:
        """Do nothing."""
        return False

    def log(self, step: int, **values: Any) -> None:
        """Do nothing."""

    def log_evaluation(self, step: int, found: dict[str, Any]) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def as_number(value: Any) -> Any:
    """Return a number that JSON can write; None for an infinite one: a norm, where fp16's scaler skips."""
    if isinstance(value, Pending):
        (value,) = value.read()
    return value if not isinstance(value, float) or math.isfinite(value) else None


class Tracker:
    """The process that logs the run in W&B. Whatever happens to it, the training goes on and one line says so."""

    def __init__(self, run: Run, logged: int) -> None:
        """Start it; the first `logged` lines of the metrics are of earlier attempts."""
        self.run = run
        self.reported = b""
        self.process: subprocess.Popen[bytes] | None = None
        run.tell(wandb=None)
        self.reports, theirs = os.pipe()  # apart from its output, which anybody prints to
        os.set_blocking(self.reports, False)
        command = [
            sys.executable,
            "-m",
            "sft.trainer.trackers.wandb_process",
            "--run",
            str(run.path),
            "--logged",
            str(logged),
        ]
        try:
            self.process = subprocess.Popen(
                [*command, "--reports", str(theirs)], stdin=subprocess.PIPE, bufsize=0, pass_fds=[theirs]
            )
        except OSError as error:
            self.switch_off(error.strerror or str(error))
        finally:
            os.close(theirs)

    def look(self) -> None:
        """Hear what the process reports, and whether it is still there. Never waits."""
        if self.process is None:
            return
        code = self.process.poll()  # before its last words are read
        with contextlib.suppress(BlockingIOError):
            self.reported += os.read(self.reports, 2**16)
        *lines, self.reported = self.reported.split(b"\n")
        for report in map(json.loads, lines):
            if "error" in report:
                self.switch_off(report["error"])
                return
            self.run.tell(wandb=report["url"])
        if code:
            self.switch_off(f"its process ended with exit code {code}")
        elif code == 0:
            self.process = None

    def close(self, limit_s: float = FINISH_S) -> None:
        """Let it log what is left and end."""
        self.look()
        if self.process is None:
            return
        assert self.process.stdin
        with contextlib.suppress(OSError):
            self.process.stdin.write(wandb_process.END)
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.switch_off(f"it did not end within {limit_s:.0f} s; `wandb sync` uploads what is in {self.folder}")
        self.look()

    @property
    def folder(self) -> Path:
        """Where W&B keeps its own files of the run."""
        return self.run.path / "wandb"

    def switch_off(self, reason: str) -> None:
        """End it with its service, and say once that the run goes on without."""
        process, self.process = self.process, None
        if process:
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        child.kill()
            process.kill()
            process.wait()
        said = f"not logging there ({reason})"
        print(f"W&B: {said}", flush=True)
        self.run.tell(wandb=said)
