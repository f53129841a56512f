"""Weights & Biases beside a run. Rank 0 starts wandb_process.py, and then only checks that it still works."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import psutil

from sft.run.directory import Run
from sft.run.metrics import Line
from sft.settings.fields import Settings
from sft.trainer.trackers import wandb_process

FINISH_S = 60  # for W&B to send what is left; the rest stays in the run directory


def start(run: Run, settings: Settings, logged: int) -> WandbTracker | None:
    """Start to log in W&B, unless WANDB_MODE=disabled. A Starter (tracker.py)."""
    if settings.wandb_mode != "disabled":
        return WandbTracker(run, logged)
    run.tell(wandb=None)
    return None


class WandbTracker:
    """The process that logs the run in W&B. If it fails, training continues and one line says so."""

    def __init__(self, run: Run, logged: int) -> None:
        self.run = run
        self.unread = b""  # of a report that has come in part
        self.process: subprocess.Popen[bytes] | None = None
        run.tell(wandb=None)
        self.reports, theirs = os.pipe()  # not its standard output, where any library prints
        os.set_blocking(self.reports, False)
        command = [sys.executable, "-m", wandb_process.__name__, "--run", str(run.path), "--logged", str(logged)]
        try:
            self.process = subprocess.Popen(
                [*command, "--reports", str(theirs)], stdin=subprocess.PIPE, bufsize=0, pass_fds=[theirs]
            )
        except OSError as error:
            self.switch_off(error.strerror or str(error))
        finally:
            os.close(theirs)

    def log(self, line: Line) -> None:
        """Check that the process still works. It reads the line itself, from `metrics.jsonl`."""
        self.check()

    def check(self) -> None:
        """Read what the process reports, and whether it still runs. Never waits."""
        if self.process is None:
            return
        code = self.process.poll()  # before its last report is read
        with contextlib.suppress(BlockingIOError):
            self.unread += os.read(self.reports, 2**16)
        *lines, self.unread = self.unread.split(b"\n")
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
        """Have the process log what is left and end. After `limit_s` it is killed."""
        self.check()
        if self.process is None:
            return
        assert self.process.stdin
        with contextlib.suppress(OSError):
            self.process.stdin.write(wandb_process.END)
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            folder = self.run.path / "wandb"
            self.switch_off(f"it did not end within {limit_s:.0f} s; `wandb sync` uploads what is in {folder}")
        self.check()

    def switch_off(self, reason: str) -> None:
        """Kill the process and W&B's service, and say once that the run continues without them."""
        process, self.process = self.process, None
        if process:
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        child.kill()
            process.kill()
            process.wait()
        message = f"not logging there ({reason})"
        print(f"W&B: {message}", flush=True)
        self.run.tell(wandb=message)
