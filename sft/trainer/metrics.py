"""Where a run's numbers go: `metrics.jsonl` always, Weights & Biases beside it. Rank 0 only."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from sft.run import Run, write_whole
from sft.settings import Settings


class Metrics:
    """Writes metrics of a run. On the other ranks use NoMetrics."""

    def __init__(self, run: Run, settings: Settings, first_step: int) -> None:
        """Open the logs of a run that goes on after `first_step` steps: later lines of a lost attempt are dropped."""
        kept = [line for line in run.read_metrics() if line["step"] <= first_step]
        write_whole(run.metrics, "".join(json.dumps(line) + "\n" for line in kept))
        self.file = run.metrics.open("a", buffering=1)
        self.wandb = start_wandb(run, settings)
        if self.wandb is not None and not self.wandb.offline:
            run.update_state(wandb_url=self.wandb.url)

    def log(self, step: int, **values: Any) -> None:
        """Write one line; names have `_` before the first word's end instead of `/` (train_loss -> train/loss)."""
        named = {name.replace("_", "/", 1): value for name, value in values.items() if value is not None}
        self.file.write(json.dumps({"step": step, "time": round(time.time(), 3)} | named) + "\n")
        if self.wandb is not None:
            self.wandb.log(named, step=step)

    def close(self) -> None:
        """Flush everything."""
        self.file.close()
        if self.wandb is not None:
            self.wandb.finish()


class NoMetrics:
    """Takes the place of Metrics on the ranks that write nothing."""

    def log(self, step: int, **values: Any) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def start_wandb(run: Run, settings: Settings) -> Any:
    """Return a W&B run: online with a key, offline without one, the same one after a resume.

    W&B never stops a training run: where it cannot start, that is said and None returned.
    """
    import wandb

    key = settings.wandb_api_key.get_secret_value()
    if key:
        os.environ["WANDB_API_KEY"] = key
    try:
        return wandb.init(
            mode="online" if key else "offline",
            dir=Path(run.path),
            project=settings.wandb_project_name,
            entity=settings.wandb_entity or None,
            name=settings.wandb_run_name or run.name,
            id=run.name,
            resume="allow",
            config=settings.freeze(),
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False, init_timeout=60),
        )
    except (wandb.Error, OSError) as error:
        print(f"W&B: not logging there ({str(error).splitlines()[0]})", flush=True)
        return None
