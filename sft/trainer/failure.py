"""Turn the exception that ended a rank into a Failure. Its kind is decided here; its text is not examined later."""

from __future__ import annotations

import os
import textwrap

from sft import nccl
from sft.errors import SftError, kind_of
from sft.run.directory import Run
from sft.run.records import Failure
from sft.trainer import oom
from sft.trainer.causes import kind_of_unexpected

MESSAGE = 500  # characters of an error; all of it is in the log


def failure_of(error: BaseException, run: Run, rank: int) -> Failure:
    """Return what an exception that ends a rank means for the run."""
    if isinstance(error, SftError):
        return Failure(kind=error.kind, reason=str(error), rank=rank)
    if said := oom.reason(error, run):
        return Failure(kind="out_of_memory", reason=f"rank {rank}: {said}", rank=rank)
    what = f"{type(error).__name__}: {textwrap.shorten(str(error), MESSAGE) or 'no message'}"
    if "nccl" in what.lower() and run.settings().launcher == "compose" and (remedy := nccl.remedy(os.environ)):
        what += f"; {remedy}"
    kind = kind_of(error)
    if kind == "disk_full":
        what += "; make room on that disk, `df -h` shows which is full"
    kind = kind_of_unexpected(error) if kind == "crash" else kind
    return Failure(kind=kind, reason=f"rank {rank}: {what}", rank=rank)
