"""Turn the exception that ended a rank into a Failure. Its kind is decided here; its text is not examined later."""

from __future__ import annotations

import textwrap

from sft.errors import SftError, kind_of
from sft.failures import MAY_FOLLOW, Kind, kind_of_library_error
from sft.run.directory import Run
from sft.run.records import Failure
from sft.trainer import oom

MESSAGE = 500  # characters of an error; all of it is in the log


def failure_of(error: BaseException, run: Run, rank: int) -> Failure:
    """Return what an exception that ends a rank means for the run."""
    if isinstance(error, SftError):
        return Failure(kind=error.kind, reason=str(error), rank=rank)
    if said := oom.reason(error, run):
        return Failure(kind="out_of_memory", reason=f"rank {rank}: {said}", rank=rank)
    what = f"{type(error).__name__}: {textwrap.shorten(str(error), MESSAGE) or 'no message'}"
    return Failure(kind=kind_of_unexpected(error), reason=f"rank {rank}: {what}", rank=rank)


def kind_of_unexpected(error: BaseException) -> Kind:
    """Return the kind of an exception of a library. Errors between ranks are RuntimeErrors, in torch and in gloo."""
    kind = kind_of(error)
    if kind == "crash":
        kind = kind_of_library_error(str(error))
    return "crash" if kind in MAY_FOLLOW and not isinstance(error, RuntimeError) else kind
