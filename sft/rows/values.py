"""Values inside a row, checked: each error says where they are and what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from sft.errors import DataError, shown
from sft.rows.json_text import parse
from sft.settings.kinds import is_unicode

DEEPEST = 64  # levels of nesting: chat templates walk through values by recursion
NAMES = {type(None): "null", dict: "an object", list: "a list", str: "text", bool: "true or false"}


def type_name(value: object) -> str:
    """Return what a value is, in the words of JSON where it has one.

    >>> type_name(None), type_name([1]), type_name(1)
    ('null', 'a list', 'int')
    """
    return NAMES.get(type(value), type(value).__name__)


def quoted(value: object) -> str:
    """Return a value for an error: a text or a number itself, of anything else what it is."""
    return shown(repr(value)) if isinstance(value, (str, int, float)) else type_name(value)


def is_filled(value: object) -> bool:
    """Whether a key or column says anything. Zero does; false and whatever is empty do not."""
    return not (value is None or value is False or value in ("", [], {}))


def checked_text(value: object, where: str, what: str) -> str:
    """Return a text of a row; `what` names it in the error.

    Raises DataError for anything but a string, and for lone surrogates: JSON can escape half a character, and no file
    can hold it.
    """
    if not isinstance(value, str):
        raise DataError(f"{where}: {what} is not text but {type_name(value)}; write a string")
    if not is_unicode(value):
        raise DataError(f"{where}: {what} holds half a character (a lone surrogate); fix the text")
    return value


def checked_json(value: object, where: str, what: str) -> object:
    """Return a value of any kind that JSON has; `what` names it in the error.

    Raises DataError for lone surrogates, numbers that are not finite, what JSON does not have (bytes, dates) and what
    is nested more than DEEPEST levels deep.
    """
    level = [value]
    for _ in range(DEEPEST):
        for inner in level:
            check_leaf(inner, where, what)
        level = [child for inner in level for child in children(inner)]
        if not level:
            return value
    raise DataError(f"{where}: {what} is nested more than {DEEPEST} levels deep; remove some")


def check_leaf(value: object, where: str, what: str) -> None:
    """Check a value, but not those inside it. Raises DataError."""
    if isinstance(value, str):
        checked_text(value, where, what)
    elif isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{where}: {what} holds the number {value}, which JSON does not have; remove it")
    elif not isinstance(value, (bool, int, float, dict, list)) and value is not None:
        raise DataError(f"{where}: {what} holds {type_name(value)}, which JSON does not have; write text or a number")


def children(value: object) -> list[object]:
    """Return the values directly inside a value, and an object's keys."""
    return [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []


def from_text(value: object, where: str, what: str) -> object:
    """Return the JSON in a text that begins like it, and any other value as it is. Raises DataError.

    Csv and Parquet files hold lists and objects as text.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{", '"')):
        return value
    return parse(checked_text(value, where, what), f"{where}: {what}")


def checked_list(value: object, where: str, what: str, example: str) -> list[dict[str, object]]:
    """Return a list of objects; it, and each of them, may be text that holds JSON. Raises DataError."""
    items = from_text(value, where, what)
    if isinstance(items, list):
        items = [from_text(item, where, what) for item in items]
        objects = [item for item in items if isinstance(item, dict)]
        if len(objects) == len(items):
            return objects
        found = f"it holds {type_name(next(item for item in items if not isinstance(item, dict)))}"
    else:
        found = f"it is {type_name(items)}"
    raise DataError(f"{where}: {what} is not a list of objects ({found}); write {example}")


def checked_object(value: object, where: str, what: str) -> dict[str, object]:
    """Return an object of JSON, which may be text that holds it. Raises DataError."""
    found = from_text(value, where, what)
    if not isinstance(found, dict):
        raise DataError(f"{where}: {what} is {type_name(found)}, not an object; write {{…}}")
    checked_json(found, where, what)
    return found


def check_keys(found: dict[str, object], known: tuple[str, ...], where: str, what: str) -> None:
    """Raise DataError for a filled key that nothing would read."""
    for key, value in found.items():
        if key not in known and is_filled(value):
            used = ", ".join(known)
            raise DataError(
                f"{where}: {what} has the key {shown(repr(key))}, which is not used; use {used}, or remove it"
            )


def leaves(value: object) -> Iterator[str]:
    """Yield the texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
