"""What a checkpoint needs of the disk: to be flushed while it is written, and a full one as an error of one line."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sft.errors import RunFailed
from sft.failures import is_disk_full

FLUSH_S = 0.1  # between two flushes of a file


@contextmanager
def flushing(path: Path) -> Iterator[None]:
    """Flush a file to disk while it is written and read inside, and once more at the end. Raises OSError.

    The system alone would begin late: it keeps up to a tenth of main memory back. The disk would be idle until all is
    written, and the processor until all is flushed.
    """
    path.touch()
    is_over, errors = threading.Event(), list[OSError]()

    def flush() -> None:
        try:
            with path.open("rb") as file:
                while not is_over.wait(FLUSH_S):
                    os.fsync(file.fileno())
                os.fsync(file.fileno())
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=flush, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    for error in errors:
        raise error


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
