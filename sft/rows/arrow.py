"""Rows of Arrow tables (Parquet files, data sets from the hub) as they were before they were stored.

Arrow gives every object in a column the keys of all objects in it, with null where a row did not have them: a tool
would have the parameters of all other tools. So a null in an object means "not there" and is left out. In a map, whose
keys are its own, and in a column of JSON, a null is what somebody wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sft.errors import DataError, shown
from sft.rows.json_text import parse

if TYPE_CHECKING:
    import pyarrow

Restore = Callable[[str, object], object]  # of a row's place, for errors, and a value in it


def as_written(schema: pyarrow.Schema) -> Callable[[str, dict[str, object]], dict[str, object]]:
    """Return what restores a row that pyarrow gives, from its place and itself. A column that is null stays.

    The returned function raises DataError for JSON that is not valid and for a map with a key twice.
    """
    nested = {field.name: restore for field in schema if (restore := restorer(field.type))}
    return lambda where, row: row | {name: restore(where, row[name]) for name, restore in nested.items()}


def restorer(kind: pyarrow.DataType) -> Restore | None:
    """Return what restores a value of an Arrow type, or None for a type whose values are as they were."""
    import pyarrow

    if isinstance(kind, pyarrow.JsonType):
        return lambda where, value: parse(value, where) if isinstance(value, str) else value
    if pyarrow.types.is_struct(kind):
        return of_struct({field.name: restorer(field.type) for field in kind})
    if pyarrow.types.is_map(kind):
        return of_map(restorer(kind.item_type))
    types = pyarrow.types
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    if any(is_of_type(kind) for is_of_type in lists):
        return of_list(restorer(kind.value_type))
    return None


def of_struct(fields: dict[str, Restore | None]) -> Restore:
    """Return what leaves out the nulls of an object with these fields."""

    def restored(where: str, value: object) -> object:
        if not isinstance(value, dict):
            return value
        there = ((name, inner, fields[name]) for name, inner in value.items() if inner is not None)
        return {name: restore(where, inner) if restore else inner for name, inner, restore in there}

    return restored


def of_map(restore: Restore | None) -> Restore:
    """Return what makes an object of the pairs (key, value) that pyarrow gives for a map."""

    def restored(where: str, value: object) -> object:
        if not isinstance(value, list):
            return value
        found = {key: restore(where, inner) if restore else inner for key, inner in value}
        if len(found) < len(value):
            keys = [key for key, _ in value]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise DataError(f"{where}: has the key {shown(repr(twice))} twice in a map; remove one")
        return found

    return restored


def of_list(restore: Restore | None) -> Restore | None:
    """Return what restores a list of such values."""
    if restore is None:
        return None
    return lambda where, value: [restore(where, item) for item in value] if isinstance(value, list) else value
