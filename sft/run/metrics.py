"""The lines of `metrics.jsonl`: numbers of a step under their metric names, such as `train/loss`.

Users' scripts read the file too, so a line is one flat JSON object without a version:
`{"step": 7, "time": 1795676287.604, "train/loss": 0.0291}`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
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
