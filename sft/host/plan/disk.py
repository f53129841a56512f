"""How much disk a run needs: its checkpoints, the final model, what is downloaded, and the prepared rows.

Each of RUNS_PATH, MODEL_PATH and DATA_PATH may be on a file system of its own.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from sft import model_files
from sft.errors import SettingsError, UserError, wrong
from sft.host.plan import cards, lookup, workload
from sft.host.plan.conditions import STAND_IN
from sft.host.plan.job import Job
from sft.host.plan.memory import host_memory
from sft.host.plan.workload import Rows
from sft.run.directory import Run
from sft.run.unfinished import newest_of
from sft.settings.fields import DEMO, TINY, Settings
from sft.settings.mixture import parts_of
from sft.settings.stages import Resolved
from sft.settings.variables import expanded, is_there
from sft.steps import Steps

DOWNLOADED_BYTES = 2  # per weight of a model on the hub
PREPARED_BYTES = 5  # per token: its number, and whether it is a target
ROWS_BYTES = 20  # per token of rows from the hub, as they come and as `datasets` keeps them. ASSUMED.
GB = 1e9


@dataclass(frozen=True)
class Need:
    """Bytes that a run adds to each of its folders."""

    checkpoint: float
    checkpoints: int  # at once: KEEP_CHECKPOINTS, and the next one before the oldest is removed
    final: float
    kept: float  # bytes of the checkpoints that the run to resume has already
    model: float
    data: float

    @property
    def runs(self) -> float:
        """Bytes at the peak: during a save, or during the export of the final model."""
        before_export = max(1, self.checkpoints - 1)
        peak = max(self.checkpoints * self.checkpoint, before_export * self.checkpoint + self.final)
        return max(0.0, peak - self.kept)

    @property
    def words(self) -> str:
        """What is in RUNS_PATH at the peak."""
        return in_words(self.checkpoints, self.checkpoint, self.final)


@dataclass(frozen=True)
class Place:
    """A file system that a run writes to."""

    settings: tuple[str, ...]  # names of the settings whose folders are there
    path: Path
    needed: float
    free: float

    @property
    def fits(self) -> bool:
        return self.needed <= self.free


def need(settings: Resolved) -> Need | None:
    """Return what a run needs; None if the size of its model cannot be known here."""
    try:
        shape = lookup.find(settings)
    except UserError:
        return None
    if shape is None:
        return None
    host = host_memory(Job.of(settings, shape, cards.need(STAND_IN)))
    rows = workload.rows_of(settings)
    return Need(
        checkpoint=host.save,
        checkpoints=checkpoints(settings, rows),
        final=host.export,
        kept=kept_bytes(settings),
        model=0.0 if has_weights(settings) else DOWNLOADED_BYTES * shape.weights,
        data=data_bytes(settings, rows),
    )


def checkpoints(settings: Settings, rows: Rows) -> int:
    """Return the most checkpoints that a run has at once."""
    saves = Steps.of(settings, rows.rows).total // settings.save_steps + 1 if settings.save_steps else 1
    return min(settings.keep_checkpoints + 1, saves)


def has_weights(settings: Settings) -> bool:
    """Tell whether the model's weights need no download."""
    if settings.model_name == TINY or model_files.local_model(settings) is not None:
        return True
    config = lookup.in_cache(settings)
    return config is not None and any(path.suffix in (".safetensors", ".bin") for path in config.parent.iterdir())


def data_bytes(settings: Settings, rows: Rows) -> float:
    """Return the bytes of rows that are still to be prepared, and downloaded if they are on the hub."""
    if workload.counted(settings) is not None:
        return 0.0
    tokens = rows.rows * rows.tokens_per_row
    from_hub = any(is_on_hub(part.settings) for part in parts_of(settings))
    return tokens * (PREPARED_BYTES + ROWS_BYTES * from_hub)


def is_on_hub(settings: Settings) -> bool:
    """Tell whether a data set has to come from the hub."""
    return settings.dataset != DEMO and not is_there(expanded(settings.dataset))


def kept_bytes(settings: Settings) -> float:
    """Return the bytes of the checkpoints of the run that `make train` would resume."""
    if settings.run_name:
        run = None if settings.fresh else Run(settings.runs_path / settings.run_name)
    else:
        try:
            run = None if settings.fresh else newest_of(settings)[0]
        except UserError:  # it is at work
            return 0.0
    return bytes_in(run.checkpoints) if run else 0.0


def bytes_in(folder: Path) -> float:
    """Return the bytes of all files in a folder."""
    found = 0.0
    for path in folder.rglob("*"):
        try:
            found += 0 if path.is_dir() else path.lstat().st_size
        except OSError:  # removed meanwhile, or another user's
            continue
    return found


def places(settings: Settings, needed: Need | None) -> list[Place]:
    """Return the file systems that a run writes to, each once."""
    bytes_of = {
        "runs_path": needed.runs if needed else 0.0,
        "model_path": needed.model if needed else 0.0,
        "data_path": needed.data if needed else 0.0,
    }
    found: dict[int, list[str]] = {}
    for name in bytes_of:
        found.setdefault(os.stat(existing(getattr(settings, name))).st_dev, []).append(name)
    return [place(settings, names, sum(bytes_of[name] for name in names)) for names in found.values()]


def place(settings: Settings, names: list[str], needed: float) -> Place:
    """Return the file system of the folders that these settings name."""
    path: Path = getattr(settings, names[0])
    return Place(tuple(name.upper() for name in names), path, needed, free_bytes(path))


def free_bytes(path: Path) -> float:
    """Return what is free on the file system of a folder, which need not exist yet; no end of it without a size."""
    usage = shutil.disk_usage(existing(path))
    return usage.free if usage.total else sys.maxsize  # /proc and the like: writing there fails for another reason


def existing(path: Path) -> Path:
    """Return a folder, or the one above it that exists and may be seen."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if os.path.exists(folder))


def problems(needed: Need, found: Iterable[Place]) -> list[str]:
    """Return a line for each file system that is too full."""
    return [wrong(one.settings[0], one.path, *problem(needed, one)) for one in found if not one.fits]


def problem(needed: Need, one: Place) -> tuple[str, str]:
    """Return what is wrong with a file system that is too full, and what to do."""
    of_runs = "RUNS_PATH" in one.settings
    words = f" ({needed.words})" if of_runs else ""
    what = f"{size(one.free)} are free, this run needs {size(one.needed)}{words}"
    remedy = f"make room, or set {one.settings[0]} to a folder on a larger disk"
    fewer = replace(needed, checkpoints=2)
    if of_runs and needed.checkpoints > 2 and one.needed - needed.runs + fewer.runs <= one.free:
        remedy = f"set KEEP_CHECKPOINTS=1, {remedy}"
    return what, remedy


def check(settings: Resolved) -> list[str]:
    """Return lines about disks that are too small if PLAN=warn. Raises SettingsError for them otherwise.

    A model whose size is a guess is never refused.
    """
    needed = need(settings)
    lines = problems(needed, places(settings, needed)) if needed else []
    if lines and settings.plan == "refuse" and not is_guess(settings):
        raise SettingsError(lines)
    return lines


def is_guess(settings: Settings) -> bool:
    """Tell whether the number of the model's weights is a guess."""
    shape = lookup.find(settings)
    return shape is not None and bool(shape.doubt)


def in_words(checkpoints: int, checkpoint: float, final: float) -> str:
    """Return what is in RUNS_PATH, as in "3 checkpoints of 14.8 GB, final/ 2.5 GB"."""
    many = f"{checkpoints} checkpoints of" if checkpoints > 1 else "a checkpoint of"
    return f"{many} {size(checkpoint)}, final/ {size(final)}"


def size(number: float) -> str:
    """Return a number of bytes in words, in units of 1000 as disks are sold."""
    if number >= 100 * GB:
        return f"{number / GB:,.0f} GB"
    return f"{number / GB:.1f} GB" if number >= GB / 10 else f"{number / 1e6:,.1f} MB"
