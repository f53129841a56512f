"""The inputs of this folder and what must become of them: expected.toml, read and checked."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pydantic

from tests.cases import made
from tests.cases.outcome import Outcome

HERE = Path(__file__).parent
INPUTS = HERE / "inputs"
TABLE = HERE / "expected.toml"


@dataclass(frozen=True)
class Case:
    """One input, the settings that it is read with, and what must become of it."""

    input: str = ""  # if the case has another name
    settings: dict[str, str] = field(default_factory=dict)
    trained: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    dropped: int = 0
    refused: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.trained, self.held_out, self.dropped, self.refused)


def cases() -> dict[str, Case]:
    """Return the cases by name: the input's, with what is special about the settings behind a comma."""
    return pydantic.TypeAdapter(dict[str, Case]).validate_python(tomllib.loads(TABLE.read_text(encoding="utf-8")))


def input_of(name: str, case: Case, folder: Path) -> Path:
    """Return the path of a case's input; one that made.py has is written into `folder`."""
    name = case.input or name
    if name in made.FILES:
        (folder / name).write_bytes(made.FILES[name]())
        return folder / name
    return INPUTS / name
