"""`environment.json` and `node-R.json`: what a run was started with, and where."""

from __future__ import annotations

from dataclasses import field
from typing import Self

from sft.run.light import dataclass
from sft.run.records.inputs import Inputs
from sft.run.typed_json import Part, Record


@dataclass(frozen=True, kw_only=True)
class Machine(Part):
    """What node 0 runs on."""

    system: str
    cpu: str
    cores: int
    memory_gib: float
    gpus: list[str]
    driver: str | None


@dataclass(frozen=True, kw_only=True)
class Start(Part):
    """One start of a run. None: not noted yet. `commit` is also None outside a repository."""

    opened_at: float | None = None
    command: str | None = None
    commit: str | None = None  # of this project
    changed_files: list[str] | None = None  # tracked ones that differ from the commit
    deepspeed_file: dict[str, object] | None = None
    python: str | None = None
    packages: dict[str, str] | None = None  # versions
    machine: Machine | None = None
    inputs: Inputs | None = None


@dataclass(frozen=True, kw_only=True)
class Environment(Record):
    """`environment.json`: the starts of a run. `began` is the one that the weights started in."""

    has_errors = True  # a command line, names of files

    began: Start = field(default_factory=Start)
    later_starts: list[Start] = field(default_factory=list)  # resumed from a checkpoint
    earlier_starts: list[Start] = field(default_factory=list)  # nothing is left of them

    @classmethod
    def from_json(cls, content: object, name: str = "") -> Self:
        """Read the file, which has the fields of `began` at the top."""
        if isinstance(content, dict):
            others = {key: content[key] for key in ("later_starts", "earlier_starts") if key in content}
            began = {key: value for key, value in content.items() if key not in others}
            content = {"began": began} | others
        return super().from_json(content, name)

    def to_json(self) -> dict[str, object]:
        """Return the content of the file, with the fields of `began` at the top."""
        others = super().to_json()
        del others["began"]
        return self.began.to_json() | others


@dataclass(frozen=True, kw_only=True)
class NodeInfo(Record):
    """`node-R.json`: a node, written by itself."""

    name: str  # in the hostfile
    host: str
    ranks: list[int]
    gpus: list[str]  # UUIDs
