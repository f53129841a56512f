"""A row as its file has it, with its place, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sft.errors import DataError

Row = dict[str, object]
ReadRow = tuple[str, Row | DataError]  # where the row is, as in "train.jsonl:7"; the row, or what is wrong with it

Content = TypeVar("Content")


def row_or_error(read: Callable[[str, Content], Row], where: str, content: Content) -> ReadRow:
    """Return where a row is, and what `read` makes of its content, or the DataError that it raises."""
    try:
        return where, read(where, content)
    except DataError as error:
        return where, error


def as_row(where: str, value: object) -> Row:
    """Return `value` if it is a JSON object. Raises DataError."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: is not a JSON object but {type(value).__name__}; write one object per row")
    return value
