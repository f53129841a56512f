"""What can go wrong, as exceptions.

SftError                 one line for the user, no traceback
├── UserError            the user can fix it: exit code 2
│   ├── SettingsError    one or more wrong settings, a line each
│   └── DataError        a malformed row or an unusable data set
└── RunFailed            the run broke: exit code 1
"""

from __future__ import annotations

# In the reason of a run that broke so: it would break again in the same way.
NOT_FINITE = "is not finite"
OUT_OF_MEMORY = "out of memory"

# In the text of an error between ranks which says no more than that another rank is gone: its reason is elsewhere, and
# often comes later.
LOST = (
    "connection reset", "connection closed", "connection refused", "broken pipe", "timed out", "timeout",
    "remote process", "remote error", "ncclremoteerror", "was aborted", "failed to recv", "socket closed",
)  # fmt: skip
# What such an error never says of another rank, whatever else stands beside it.
OWN = (
    "address already in use", "no socket interface", "unable to find address", "ncclunhandledcudaerror",
    "ncclinvalid", "duplicate gpu", "cuda error", "shared memory", "no space left",
)  # fmt: skip


def between_ranks(text: str) -> bool:
    """Tell whether an error's text is about the connection between ranks, and may follow from another rank's error."""
    text = text.lower()
    return any(word in text for word in (*LOST, "nccl", "gloo")) and not any(word in text for word in OWN)


def only_lost_another(text: str) -> bool:
    """Tell whether an error's text says no more than that another rank is gone."""
    return between_ranks(text) and any(word in text.lower() for word in LOST)


class SftError(Exception):
    """Something that is told to the user in one line, without a traceback."""

    exit_code = 1


class UserError(SftError):
    """The user can fix it: a setting, a file, a missing program."""

    exit_code = 2


class SettingsError(UserError):
    """Wrong settings, each as ``NAME=value: what is wrong; what to do``."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DataError(UserError):
    """A data set that cannot be used: names the file and line of the row."""


class RunFailed(SftError):
    """The run ended without a finished model."""


def wrong(name: str, value: object, what: str, remedy: str) -> str:
    """Return the one line that every wrong setting is reported with."""
    return f"{name}={shown(value)}: {shown(what, 300)}; {shown(remedy, 300)}"


def shown(value: object, width: int = 120) -> str:
    """Return a value as a terminal can show it on one line: odd characters escaped, a long one cut."""
    text = str(value)[: width + 1]
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= width else text[: width - 1] + "…"
