"""The run directory: the one interface between the tasks, the ranks and every tool that looks on.

Files that are read while they are written (`state.json`, `checkpoints/latest`, manifests) are written beside
themselves and renamed, so a reader sees the old or the new one, never half.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sft.errors import UserError
from sft.settings import Settings

Status = Literal["launching", "preparing", "training", "saving", "evaluating", "finished", "stopped", "failed"]
ENDED: tuple[Status, ...] = ("finished", "stopped", "failed")


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is either the old one or the new one, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@dataclass(frozen=True)
class Run:
    """One run's directory."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def metrics(self) -> Path:
        """`metrics.jsonl`: one JSON object per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def logs(self) -> Path:
        """Folder of `node-R.log`."""
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        """Folder of `step-NNNNNN/` and `latest`."""
        return self.path / "checkpoints"

    @property
    def final(self) -> Path:
        """The tuned model in Hugging Face layout."""
        return self.path / "final"

    @property
    def settings_file(self) -> Path:
        """The resolved settings, without secrets."""
        return self.path / "settings.json"

    @property
    def ds_config(self) -> Path:
        """What DeepSpeed receives."""
        return self.path / "ds_config.json"

    @property
    def hostfile(self) -> Path:
        """What the launcher reads."""
        return self.path / "hostfile"

    @property
    def prepared(self) -> Path:
        """`prepared.json`: where the prepared data and the base model lie; written when both are whole."""
        return self.path / "prepared.json"

    @property
    def evaluation(self) -> Path:
        """`evaluation.json`: loss and exact match before and after training."""
        return self.path / "evaluation.json"

    def settings(self) -> Settings:
        """Return the frozen settings."""
        return Settings.thaw(self.settings_file)

    # State

    def state(self) -> dict[str, Any]:
        """Return the content of `state.json`, or an empty one before there is any."""
        try:
            return json.loads((self.path / "state.json").read_text())
        except FileNotFoundError:
            return {}

    def update_state(self, status: Status | None = None, **values: Any) -> None:
        """Change some values of `state.json`. One process at a time writes it: rank 0, or the launcher without ranks."""
        now = time.time()
        state = {"status": "launching", "step": 0, "total_steps": 0, "epoch": 0.0, "started_at": now, "error": None}
        state |= self.state() | values | {"updated_at": now}
        if status:
            state["status"] = status
        write_whole(self.path / "state.json", json.dumps(state, indent=2) + "\n")

    @property
    def ended(self) -> bool:
        """Whether the run has ended, in whatever way."""
        return self.state().get("status") in ENDED

    # Stop

    def request_stop(self, reason: str) -> None:
        """Ask the ranks to save and end after the step they are in."""
        write_whole(self.path / "stop", reason + "\n")

    def stop_reason(self) -> str | None:
        """Return why a stop was requested, or None."""
        try:
            return (self.path / "stop").read_text().strip()
        except FileNotFoundError:
            return None

    def clear_stop(self) -> None:
        """Forget a stop request, before the run resumes."""
        (self.path / "stop").unlink(missing_ok=True)

    # Metrics

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """Yield the logged steps; a line that is still being written is left out."""
        try:
            with self.metrics.open() as file:
                for line in file:
                    if line.endswith("\n"):
                        yield json.loads(line)
        except FileNotFoundError:
            return

    def log_tail(self, node: int, lines: int = 15) -> list[str]:
        """Return the last lines of a node's log."""
        try:
            return (self.logs / f"node-{node}.log").read_text(errors="replace").splitlines()[-lines:]
        except FileNotFoundError:
            return []


def create(settings: Settings, hostfile: str) -> Run:
    """Make the run directory with its frozen inputs, and point `runs/latest` to it.

    Raises UserError where RUN_NAME is taken by a run with other settings.
    """
    model = Path(settings.model_name).name
    name = settings.run_name or time.strftime("%Y%m%d-%H%M%S-") + model
    run = Run(settings.runs_path / name)
    if run.path.exists():
        raise UserError(f"RUN_NAME={name}: {run.path} is there already; choose another name, or remove the folder")
    run.logs.mkdir(parents=True)
    run.checkpoints.mkdir()
    frozen = settings.model_copy(update={"run_name": name})
    write_whole(run.settings_file, json.dumps(frozen.freeze(), indent=2) + "\n")
    write_whole(run.ds_config, json.dumps(frozen.deepspeed(), indent=2) + "\n")
    write_whole(run.hostfile, hostfile)
    run.update_state("launching")
    point_latest(run)
    return run


def point_latest(run: Run) -> None:
    """Make `runs/latest` a link to the run."""
    link = run.path.parent / f".latest.{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(run.name)
    link.replace(run.path.parent / "latest")


def latest(runs: Path) -> Run | None:
    """Return the run that `runs/latest` points to."""
    link = runs / "latest"
    return Run(runs / os.readlink(link)) if link.is_symlink() and link.exists() else None


def find(runs: Path, name: str = "") -> Run:
    """Return the named run, or the latest. Raises UserError where there is none."""
    run = Run(runs / name) if name and name != "latest" else latest(runs)
    if run is None or not run.settings_file.is_file():
        raise UserError(f"{runs / (name or 'latest')}: no such run; start one with `make train` or `make demo`")
    return run
