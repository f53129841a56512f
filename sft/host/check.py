"""The result of a check, and how it is printed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from rich.console import Console
from rich.text import Text

from sft.errors import RunFailed

Level = Literal["ok", "warning", "failure"]
COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}


class Check(NamedTuple):
    """What one check found. The remedy is empty if all is well."""

    name: str  # the same on every machine
    level: Level
    found: str
    remedy: str = ""
    where: str = ""  # the node, as in "llm-worker"; "": this machine

    @property
    def label(self) -> str:
        """The name, behind that of its node."""
        return f"{self.where}: {self.name}" if self.where else self.name


def report(checks: Iterable[Check], console: Console) -> None:
    """Print checks as they end. Raises RunFailed if one failed."""
    failures = 0
    for check in checks:
        failures += check.level == "failure"
        console.print(Text.assemble((f"{check.level:>8}", COLOURS[check.level]), f"  {check.label}: {check.found}"))
        if check.remedy:
            console.print(f"{'':>8}  -> {check.remedy}")
    if failures:
        raise RunFailed(f"{failures} check{'s' * (failures > 1)} failed; see the remedies above")
