"""A full disk as an error of one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from sft.errors import RunFailed
from sft.failures import is_disk_full


def is_full(error: BaseException) -> bool:
    """Tell whether an error of a write means a full disk: torch's writer reports a position in the file instead."""
    return is_disk_full(error) or "inline_container.cc" in str(error)


def full(folder: Path, what: str) -> RunFailed:
    """Return the error for a checkpoint that the disk has no room for. `what` says when, or how much is missing."""
    remedy = "free some space at RUNS_PATH or lower KEEP_CHECKPOINTS; the previous checkpoint is kept"
    return RunFailed(f"{folder}: could not be written ({os.strerror(errno.ENOSPC)}: {what}); {remedy}", "disk_full")


def size(number: int) -> str:
    """Return a number of bytes with its unit, such as 1.5 GiB."""
    return f"{number / 2**30:,.1f} GiB" if number >= 2**30 else f"{number / 2**20:,.1f} MiB"
