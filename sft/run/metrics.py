"""The lines of `metrics.jsonl`: numbers of a step under their metric names, such as `train/loss`.

Users' scripts read the file too, so a line is one flat JSON object without a version:
`{"step": 7, "time": 1795676287.604, "train/loss": 0.0291}`.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sft.run import files
from sft.run.typed_json import is_finite


@dataclass(frozen=True)
class Line:
    """Numbers that were logged together, all of them finite."""

    step: int  # optimizer steps that were done
    values: dict[str, float]  # by metric name
    time: float | None = None  # in seconds since 1970

    @classmethod
    def parse(cls, text: bytes) -> Self | None:
        """Return the line that a text holds, or None if it does not hold a step's numbers. null is left out."""
        try:
            found = files.parse(text)
        except ValueError:
            return None
        if not isinstance(found, dict) or type(found.get("step")) is not int:
            return None
        numbers = {name: value for name, value in found.items() if value is not None}
        if not all(type(value) in (int, float) and is_finite(value) for value in numbers.values()):
            return None
        return cls(numbers.pop("step"), time=numbers.pop("time", None), values=numbers)

    def numbers(self) -> dict[str, float]:
        """Return all numbers by their names in the file."""
        time = {} if self.time is None else {"time": self.time}
        return {"step": self.step, **time, **self.values}

    def as_text(self) -> str:
        """Return the line as it is in the file."""
        return json.dumps(self.numbers()) + "\n"


def from_the_end(path: Path) -> Iterator[Line]:
    """Yield the lines of a `metrics.jsonl` from the last one backwards: only those that are asked for are parsed.

    Lines that cannot be read, or are still being written, are left out.
    """
    if not path.is_file() or not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        end = text.rfind(b"\n")
        while end >= 0:
            begin = text.rfind(b"\n", 0, end) + 1
            if line := Line.parse(text[begin:end]):
                yield line
            end = begin - 1


def left_out(path: Path, bad: Sequence[int], number: int) -> str:
    """Return the line about lines that cannot be read: `bad` are their numbers, of `number` in the file."""
    return f"{path}: {len(bad)} of {number} lines cannot be read (the first is line {bad[0]}); they are left out"
