"""JSON files: one object per line; a list of objects; one object, which is a row or has the rows in it; or several.

How a file is written is seen from its first lines, whatever it is called: JSON lines are read one by one, anything
else has to be read whole.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

from sft.errors import DataError
from sft.rows.files import text
from sft.rows.json_text import parse, parse_all
from sft.rows.row import ReadRow, Row, as_row, row_or_error
from sft.rows.split_names import WORDS

# What the one list of a file is called, if it is not a row itself: {"data": [{...}, {...}]}
WRAPPERS = ("data", "rows", "examples", "instances", "records", "items", "samples", "dataset")
SPLITS = tuple(word for words in WORDS.values() for word in words)
HEAD = 2**16  # characters, in which a file of several splits begins one of them


def read_json(path: Path) -> Iterator[ReadRow]:
    """Yield the rows of a JSON file."""
    if not path.is_file() or not is_whole(path):  # a pipe can be read only once
        yield from read_lines(path)
        return
    values = whole(path)
    if len(values) > 1:  # one object after the other, on lines of its own: what jq writes
        for line, value in values:
            yield row_or_error(as_row, f"{path}:{line}", value)
        return
    ((_, found),) = values
    if isinstance(found, dict):
        name, rows = inside(found, path)
        if name is None:
            yield row_or_error(as_row, f"{path}:1", found)
            return
        yield from items(rows, f"{path}:{name} item")
    else:
        yield from items(found, f"{path}:item")


def read_lines(path: Path) -> Iterator[ReadRow]:
    """Yield one object per line; empty lines are skipped."""
    for number, line in enumerate(text.lines(path), 1):
        if line.strip():
            yield row_or_error(row_of_line, f"{path}:{number}", line)


def read_part(path: Path, name: str) -> Iterator[ReadRow]:
    """Yield the rows of one of the splits of a JSON file that `parts` has found."""
    ((_, found),) = whole(path)
    assert isinstance(found, dict)
    yield from items(found[name], f"{path}:{name} item")


def parts(path: Path) -> list[str]:
    """Return the names of the splits in a JSON file such as {"train": [...], "test": [...]}, or none."""
    there = path.stat()
    return parts_of(path, there.st_mtime_ns, there.st_size)


@functools.lru_cache
def parts_of(path: Path, changed: int, size: int) -> list[str]:
    """Return the `parts` of a file that has not changed since."""
    try:
        beginning = text.head(path, HEAD)
        if not re.search(rf'^\s*\{{.*"({"|".join(SPLITS)})"\s*:\s*\[', beginning, re.DOTALL) or not is_whole(path):
            return []
        found = [value for _, value in whole(path)]
    except DataError:  # which the reader finds again, and names
        return []
    return splits_in(found[0]) if len(found) == 1 and isinstance(found[0], dict) else []


def is_whole(path: Path) -> bool:
    """Return whether a file has to be read as one JSON text, because it is not one object per line."""
    filled = (line.strip() for line in text.lines(path) if line.strip())
    first, second = next(filled, ""), next(filled, "")
    is_list, is_json_file = first.startswith("["), suffix(path) == ".json"
    if not first or is_json(first):
        return bool(first) and not second and (is_list or is_json_file)
    if is_list or first == "{":
        return True
    # A first line that is broken off looks different, and so do the lines behind it.
    return is_json_file and (first.endswith(("[", "{", ",")) or not is_json(second))


def suffix(path: Path) -> str:
    """Return a file's suffix before the one that says that it is compressed."""
    return Path(path.stem if text.compression(path) else path.name).suffix.lower()


def is_json(line: str) -> bool:
    """Return whether a line is complete JSON. What is wrong in another way is left to `parse`."""
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    except (RecursionError, ValueError):
        return True
    return True


def whole(path: Path) -> list[tuple[int, object]]:
    """Return the values in a file of JSON, each with the line that it begins on. Raises DataError."""
    return parse_all("".join(text.lines(path)), str(path))


def inside(found: dict[str, object], path: Path) -> tuple[str | None, object]:
    """Return the name and the value of the one list of rows in an object, or None and the object if it is a row.

    Raises DataError if it has several splits.
    """
    splits = splits_in(found)
    if len(splits) > 1 or (splits and splits[0] not in ("train", "training")):
        what = f"holds the splits {', '.join(splits)}"
        raise DataError(f"{path}: is a JSON object that {what}; give it as DATASET by itself, or write a file of each")
    names = splits or [name for name in WRAPPERS if isinstance(found.get(name), list)]
    others = [value for name, value in found.items() if name not in names and isinstance(value, list)]
    if len(names) == 1 and not others:
        rows = as_list(found[names[0]])
        if not rows or any(isinstance(item, dict) for item in rows):
            return names[0], rows
    return None, found


def splits_in(found: dict[str, object]) -> list[str]:
    """Return the names of the splits in an object: lists of rows, beside which there are no other lists."""
    lists = [name for name, value in found.items() if isinstance(value, list)]
    rows = [name for name in lists if all(isinstance(item, dict) for item in as_list(found[name]))]
    return lists if lists == rows and all(name.lower() in SPLITS for name in lists) else []


def as_list(value: object) -> list[object]:
    """Return a value that is a list, or an empty one."""
    return value if isinstance(value, list) else []


def items(values: object, place: str) -> Iterator[ReadRow]:
    """Yield the objects of a list."""
    for number, item in enumerate(as_list(values), 1):
        yield row_or_error(as_row, f"{place} {number}", item)


def row_of_line(where: str, line: str) -> Row:
    """Return the object in a line of JSON. Raises DataError."""
    return as_row(where, parse(line, where))
