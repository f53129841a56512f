"""What can go wrong, as exceptions.

SftError                 one line for the user, no traceback
├── UserError            the user can mend it: exit code 2
│   ├── SettingsError    one or more wrong settings, a line each
│   └── DataError        a malformed row or an unusable data set
└── RunFailed            the run broke: exit code 1
"""

from __future__ import annotations

# In the reason of a run that broke so: it would break again in the same way.
NOT_FINITE = "is not finite"
OUT_OF_MEMORY = "out of memory"


class SftError(Exception):
    """Something that is told to the user in one line, without a traceback."""

    exit_code = 1


class UserError(SftError):
    """The user can mend it: a setting, a file, a missing program."""

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
