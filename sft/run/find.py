"""Find runs: the latest, a named one, or all in a folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sft.errors import UserError
from sft.run.directory import Run


def latest(runs: Path) -> Run | None:
    """Return the run that `runs/latest` points to, or the one opened last if that has been removed."""
    link = runs / "latest"
    if link.is_symlink() and link.exists():
        return Run(runs / os.readlink(link))
    return next(iter(newest_first(runs)), None)


def newest_first(runs: Path, and_aside: bool = False) -> list[Run]:
    """Return the runs of a folder, the one opened last first; those that were set aside only on request."""
    found = []
    for path in runs.iterdir() if runs.is_dir() else ():
        try:
            if path.is_symlink() or not (path / "settings.json").is_file():
                continue
            if and_aside or not is_aside(Run(path)):
                opened = Run(path).state().attempt_started_at or (path / "settings.json").stat().st_mtime
                found.append((opened, Run(path)))
        except OSError:
            continue  # another user's
    return [run for _, run in sorted(found, key=lambda pair: (pair[0], pair[1].name), reverse=True)]


def is_aside(run: Run) -> bool:
    """Tell whether FRESH=1 has set a run aside."""
    return re.search(r"\.old-\d+$", run.name) is not None


def find(runs: Path, name: str = "") -> Run:
    """Return the named run, or the latest. Raises UserError if there is none: a wrong name is told the newest."""
    name = Path(name).name  # runs/NAME too, as a shell completes it
    run = Run(runs / name) if name and name != "latest" else latest(runs)
    if run is None or not run.is_there():
        newest = ", ".join(run.name for run in newest_first(runs)[:3])
        remedy = f"the newest: {newest}" if newest else "start one with `make train` or `make demo`"
        raise UserError(f"{runs / (name or 'latest')}: no such run; {remedy}")
    return run


def at_work(runs: Path) -> list[Run]:
    """Return the runs of a folder that something is at work on, the one opened last first."""
    return [run for run in newest_first(runs, and_aside=True) if run.is_held()]
