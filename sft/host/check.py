"""The result of a check, and the JSON that `make test-env JSON=1` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, Self

from sft.run.light import dataclass
from sft.run.typed_json import Part, Record

Level = Literal["ok", "warning", "failure"]


@dataclasses.dataclass(frozen=True)
class Check:
    """What one check found. The remedy is empty if all is well."""

    name: str  # the same on every machine
    level: Level
    found: str
    remedy: str = ""
    where: str = ""  # the node, as in "llm-worker"; "": this machine
    values: Mapping[str, int | float | str | bool] = dataclasses.field(default_factory=dict)  # for programs

    @classmethod
    def from_problem(cls, name: str, problem: str) -> Self:
        """Return the failure for an error's line, `what is wrong; what to do`."""
        what, _, remedy = problem.rpartition("; ")
        return cls(name, "failure", *((what, remedy) if what else (remedy, "")))

    @property
    def text(self) -> str:
        """The check in one line, as in "port: 37171 is in use; choose another MASTER_PORT"."""
        name = f"{self.where}: {self.name}" if self.where else self.name
        return f"{name}: {self.found}" + (f"; {self.remedy}" if self.remedy else "")

    def says_the_same(self, other: Check) -> bool:
        """Tell whether another check has found the same problem: several parts of a run may refuse the same setting."""
        return (self.level, self.found, self.remedy) == (other.level, other.found, other.remedy)

    def record(self) -> CheckRecord:
        """Return the check as JSON has it."""
        values = dict(self.values)
        return CheckRecord(
            name=self.name, where=self.where, level=self.level, found=self.found, remedy=self.remedy, values=values
        )


@dataclass(frozen=True, kw_only=True)
class CheckRecord(Part):
    """What one check found, as JSON."""

    name: str
    where: str
    level: Literal["ok", "warning", "failure"]
    found: str
    remedy: str
    values: dict[str, int | float | str | bool]

    def check(self, where: str) -> Check:
        """Return the check, made on the node `where`."""
        return Check(self.name, self.level, self.found, self.remedy, where, self.values)


@dataclass(frozen=True, kw_only=True)
class ChecksRecord(Record):
    """All checks of a machine, for a run with the settings of `.env` and the environment."""

    has_errors = True

    ready: bool  # no check failed
    launcher: str  # that the run would have; "" if none can be chosen
    checks: list[CheckRecord]
