"""The lines of `metrics.jsonl`."""

from __future__ import annotations

from sft.run import files
from sft.run.typed_json import is_finite


def metrics_line(line: bytes) -> dict[str, float] | None:
    """Return the numbers of one line of `metrics.jsonl`, or None if it does not hold a step's numbers."""
    try:
        found = files.parse(line)
    except ValueError:
        return None
    if not isinstance(found, dict) or type(found.get("step")) is not int:
        return None
    numbers = {name: value for name, value in found.items() if value is not None}
    are_finite = (type(value) in (int, float) and is_finite(value) for value in numbers.values())
    return numbers if all(are_finite) else None
