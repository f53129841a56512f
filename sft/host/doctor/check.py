"""The result of a check, and how it is printed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from rich.console import Console
from rich.text import Text

from sft.errors import RunFailed

COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}


class Check(NamedTuple):
    """What one check found. The remedy is empty if all is well."""

    name: str
    level: Literal["ok", "warning", "failure"]
    found: str
    remedy: str = ""


def report(checks: Iterable[Check], console: Console) -> None:
    """Print checks as they end. Raises RunFailed if one failed."""
    failures = 0
    for check in checks:
        failures += check.level == "failure"
        console.print(Text.assemble((f"{check.level:>8}", COLOURS[check.level]), f"  {check.name}: {check.found}"))
        if check.remedy:
            console.print(f"{'':>8}  -> {check.remedy}")
    if failures:
        raise RunFailed(f"{failures} check{'s' * (failures > 1)} failed; see the remedies above")
