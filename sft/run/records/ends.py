"""`failure.json` and the files in `ranks/`: how a run and its ranks ended."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from sft.failures import POLICIES, Kind
from sft.run.light import dataclass
from sft.run.typed_json import Record


@dataclass(frozen=True, kw_only=True)
class Failure(Record):
    """`failure.json`: what broke a run. Programs act on the kind; the reason is for people."""

    has_errors = True

    kind: Kind
    reason: str
    rank: int | None = None  # that broke; None: it was a node or a task, or all ranks
    nodes: list[int] = field(default_factory=list)  # whose logs say more, beside that of the rank

    @property
    def is_fixable(self) -> bool:
        """Whether the user can fix it."""
        return self.kind == "user"

    @property
    def restart_may_help(self) -> bool:
        """Whether a restart may avoid it."""
        return POLICIES[self.kind].restart_may_help


@dataclass(frozen=True, kw_only=True)
class RankEnd(Record):
    """`ranks/rank-N.json`: how a rank ended, written by itself as the last thing that it does."""

    has_errors = True

    status: Literal["finished", "stopped", "failed"]
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True)
class RankExit(Record):
    """`ranks/exit-N.json`: how a rank's process ended, as the operating system told DeepSpeed's launcher."""

    pid: int
    code: int  # -N: ended by signal N
