"""Where a run's numbers go: `metrics.jsonl` always, Weights & Biases beside it. Rank 0 only."""

from __future__ import annotations

import json
import math
import os
import textwrap
import time
from pathlib import Path
from typing import Any

from sft import files
from sft.redaction import redact
from sft.run import Run
from sft.settings import Settings
from sft.trainer.distributed import Pending

MESSAGE = 300  # characters of what W&B says


class Metrics:
    """Writes metrics of a run. On the other ranks use NoMetrics."""

    def __init__(self, run: Run, settings: Settings, first_step: int) -> None:
        """Open the logs of a run that goes on after `first_step` steps: later lines of a lost attempt are dropped."""
        kept = [line for line in run.read_metrics() if line["step"] <= first_step]
        files.write_whole(run.metrics, "".join(json.dumps(line) + "\n" for line in kept))
        self.file = run.metrics.open("a", buffering=1)
        self.line: dict[str, Any] = {}
        self.wandb, where = start_wandb(run, settings)
        run.update_state(wandb=where)

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

    def flush(self) -> None:
        """Write the line that waits."""
        numbers = {name: as_number(value) for name, value in self.line.items()}
        self.line = {}
        if not numbers:
            return
        self.file.write(json.dumps({name: value for name, value in numbers.items() if value is not None}) + "\n")
        if self.wandb is not None:
            step = numbers.pop("step")
            del numbers["time"]
            self.wandb.log(numbers, step=step)

    def close(self) -> None:
        """Flush everything."""
        self.flush()
        os.fsync(self.file.fileno())  # a finished run has the lines of all its steps
        self.file.close()
        if self.wandb is not None:
            self.wandb.finish()


class NoMetrics:
    """Takes the place of Metrics on the ranks that write nothing."""

    def log(self, step: int, **values: Any) -> None:
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


def start_wandb(run: Run, settings: Settings) -> tuple[Any, str | None]:
    """Return a W&B run as WANDB_MODE wants it, the same one after a resume, or None, and what the user is told of it.

    That is its address where it has one. W&B never stops a training run: where it cannot start, that is said.
    """
    mode, key = settings.wandb_mode, settings.wandb_api_key.get_secret_value()
    if mode == "disabled":
        return None, None
    os.environ["WANDB_MODE"] = ("online" if key else "offline") if mode == "auto" else mode  # W&B knows no auto
    if key:
        os.environ["WANDB_API_KEY"] = key
        for debug in ("WANDB_DEBUG", "WANDB_CORE_DEBUG"):  # writes the key into logs of its own in the run directory
            os.environ.pop(debug, None)
    try:
        import wandb  # takes a second

        logged = wandb.init(
            dir=Path(run.path),
            project=settings.wandb_project_name,
            entity=settings.wandb_entity or None,
            name=settings.wandb_run_name or run.name,
            id=run.name,
            resume="allow",
            config=settings.freeze(),
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False, init_timeout=60),
        )
    except Exception as error:
        where = f"not logging there ({redact(textwrap.shorten(str(error), MESSAGE))})"
        print(f"W&B: {where}", flush=True)
        return None, where
    return logged, None if logged.offline else logged.url
