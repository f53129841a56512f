"""JSON read strictly: no key twice, no NaN or Infinity, not too deep."""

from __future__ import annotations

from typing import NoReturn

DEEPEST = 20  # levels of nesting


def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Build a JSON object. Raises ValueError for a key that occurs twice: one of its values would be lost."""
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"has the key {key!r} twice")
        found[key] = value
    return found


def no_number(name: str) -> NoReturn:
    """Raise ValueError: JSON has no NaN and no Infinity, though Python reads them."""
    raise ValueError(f"holds {name}")


def depth(value: object) -> int:
    """Return how deep a JSON value is nested, but no more than one level beyond DEEPEST."""
    level, values = 0, [value]
    while values and level <= DEEPEST:
        values = [inner for outer in values for inner in children(outer)]
        level += 1
    return level


def children(value: object) -> list[object]:
    """Return the values directly inside a JSON value."""
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
