"""A part of a column, named by its path, as in COLUMNS={"extra_info.answer": "response", "answers.text.0": "response"}.

A path is read only if no column has it as its whole name. A number counts the items of a list, from 0.
"""

from __future__ import annotations

from collections.abc import Iterable

from sft.rows.forms import sharegpt
from sft.rows.row import Row
from sft.rows.values import from_text, is_filled


def is_path(name: str, columns: Iterable[str]) -> bool:
    """Return whether a name means a part of a column that a row has."""
    return name not in columns and name.split(".")[0] in columns


def with_parts(row: Row, paths: Iterable[str], where: str) -> Row:
    """Return a row with these parts as columns of their own, taken out of those that they are in. Raises DataError.

    >>> with_parts({"info": {"answer": "4", "id": 7}}, ["info.answer"], "")
    {'info': {'id': 7}, 'info.answer': '4'}
    """
    found = dict(row)
    for path in paths:
        column, *keys = path.split(".")
        value, rest = taken(from_text(found[column], where, f"`{column}`"), keys, where)
        found |= {column: rest, path: value}
    return found


def taken(value: object, keys: list[str], where: str) -> tuple[object, object]:
    """Return the part of a value and the value without it; None for a part that is not there. Raises DataError."""
    if not keys:
        return value, None
    key, *others = keys
    if isinstance(value, dict) and key in value:
        part, rest = taken(from_text(value[key], where, f"`{key}`"), others, where)
        return part, {name: inner for name, inner in (value | {key: rest}).items() if name != key or is_filled(inner)}
    if isinstance(value, list) and key.isdigit() and int(key) < len(value):
        at = int(key)
        part, rest = taken(value[at], others, where)
        return part, [*value[:at], *([rest] if is_filled(rest) else []), *value[at + 1 :]]
    return None, value


def first_text(value: object) -> str:
    """Return the path of the first text, or list of messages, in a value, or "".

    >>> first_text({"answer_start": [3], "text": ["Oslo", "in Oslo"]})
    'text.0'
    """
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        if (isinstance(inner, str) and inner.strip()) or sharegpt.is_chat(inner):
            return str(key)
        if found := first_text(inner):
            return f"{key}.{found}"
    return ""
