"""What can go wrong, as exceptions. Each has a kind (sft/failures.py), from which its exit code follows.

SftError                 one line for the user, no traceback
├── UserError            the user can fix it: exit code 2
│   ├── SettingsError    one or more wrong settings, a line each
│   └── DataError        a malformed row or an unusable data set
└── RunFailed            the run broke: exit code 1, unless its kind is "user"
"""

from __future__ import annotations

from sft.failures import POLICIES, Kind, is_disk_full


class SftError(Exception):
    """An error that the user sees as one line, without a traceback."""

    kind: Kind = "crash"

    @property
    def exit_code(self) -> int:
        """The exit code of a program that ends with it."""
        return POLICIES[self.kind].exit_code


class UserError(SftError):
    """The user can fix it: a setting, a file, a missing program."""

    kind = "user"


class SettingsError(UserError):
    """Wrong settings, each as ``NAME=value: what is wrong; what to do``."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DataError(UserError):
    """A data set that cannot be used: names the file and line of the row."""


class RunFailed(SftError):
    """The run ended without a finished model."""

    def __init__(self, reason: str, kind: Kind = "crash") -> None:
        super().__init__(reason)
        self.kind = kind


def kind_of(error: BaseException) -> Kind:
    """Return the kind of failure that an exception is. Libraries' errors between ranks: sft/trainer/failure.py."""
    if isinstance(error, SftError):
        return error.kind
    return "disk_full" if is_disk_full(error) else "crash"


def wrong(name: str, value: object, what: str, remedy: str) -> str:
    """Return the line that reports a wrong setting."""
    return f"{name}={shown(value)}: {shown(what, 300)}; {shown(remedy, 300)}"


def shown(value: object, width: int = 120) -> str:
    """Return a value as a terminal can show it on one line: odd characters escaped, a long one cut."""
    text = str(value)[: width + 1]
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= width else text[: width - 1] + "…"
