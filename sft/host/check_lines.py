"""Print checks as lines: those that are ok as they end, then the warnings, the failures last."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from sft.errors import RunFailed
from sft.host.check import Check, Level

COLOURS: dict[Level, str] = {"ok": "green", "warning": "yellow", "failure": "red"}
COLUMNS = 80  # at most, in a terminal
INDENT = 10  # columns of a line's level


def report(checks: Iterable[Check], console: Console) -> list[Check]:
    """Print checks, and return them: those that are ok as they end, then the warnings, the failures last.

    Raises RunFailed if one failed.
    """
    found = []
    for check in checks:
        found.append(check)
        if check.level == "ok":
            show(check, console)
    for check in [*of_level("warning", found), *of_level("failure", found)]:
        show(check, console)
    raise_failures(found)
    return found


def raise_failures(checks: Iterable[Check]) -> None:
    """Raise RunFailed if checks failed."""
    if failures := len(of_level("failure", checks)):
        raise RunFailed(f"{failures} check{'s' * (failures > 1)} failed; see the remedies above")


def of_level(level: Level, checks: Iterable[Check]) -> list[Check]:
    """Return the checks with this result."""
    return [check for check in checks if check.level == level]


def show(check: Check, console: Console) -> None:
    """Print a check as one line, which a terminal shows wrapped."""
    line = f"{check.level:>8}  {check.text}"
    if console.is_terminal:
        width = min(COLUMNS, console.width)
        lines = textwrap.wrap(line, width, subsequent_indent=" " * INDENT, break_on_hyphens=False)
        line = "\n".join([line[: INDENT - 2] + lines[0].lstrip()[len(check.level) :], *lines[1:]])
    text = Text(line)
    text.stylize(COLOURS[check.level], 0, INDENT - 2)
    console.print(text)
