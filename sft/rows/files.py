"""Rows as users store them: local files (jsonl, json, csv, parquet), read row by row.

An unusable row stops no reader: its error comes in its place, so that all of them can be named at once. pyarrow is
imported only for a Parquet file, so that a host of containers can do without it.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO, TypeVar

from sft.errors import DataError, SettingsError, shown, wrong
from sft.rows.json_text import parse
from sft.settings.fields import DATA_SUFFIXES
from sft.settings.kinds import is_unicode

Row = dict[str, object]
ReadRow = tuple[str, Row | DataError]  # where the row is, as in "train.jsonl:7"; the row, or what is wrong with it

Content = TypeVar("Content")

HELD_OUT_NAMES = ("validation", "valid", "val", "dev", "test", "eval")
PARQUET_ROWS = 1000  # in memory at a time
csv.field_size_limit(sys.maxsize)


def local_files(path: Path) -> dict[str, list[Path]]:
    """Return the files of a local data set as {"train": [...], "validation": [...]}.

    In a folder, the names decide: train*, validation* (or valid, val, dev), test*. A validation file is preferred to a
    test file for evaluation; other files are training rows. Raises SettingsError if there is nothing to train on.
    """
    if path.is_file():
        return {"train": [path], "validation": []}
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in DATA_SUFFIXES and not file.is_dir())
    if gone := [file for file in files if not file.exists()]:
        what = f"{gone[0].name} in it is a link to a file that does not exist"
        raise SettingsError([wrong("DATASET", path, what, "put the file there, or remove the link")])
    held_out = {name: [file for file in files if file.name.lower().startswith(name)] for name in HELD_OUT_NAMES}
    validation = next((found for found in held_out.values() if found), [])
    everything_held_out = [file for found in held_out.values() for file in found]
    train = [file for file in files if file.name.lower().startswith("train")]
    train = train or [file for file in files if file not in everything_held_out]
    if not train:
        raise SettingsError(
            [wrong("DATASET", path, f"holds no training file ({', '.join(DATA_SUFFIXES)})", "add train.jsonl")]
        )
    return {"train": train, "validation": validation}


def read_file(path: Path) -> Iterator[ReadRow]:
    """Yield the rows of a local file, with errors in place of those that cannot be read.

    Raises SettingsError for an unknown file type.
    """
    readers = {".jsonl": read_jsonl, ".json": read_json, ".csv": read_csv, ".parquet": read_parquet}
    if path.suffix.lower() not in readers:
        raise SettingsError([wrong("DATASET", path, "has an unknown file type", f"use {', '.join(DATA_SUFFIXES)}")])
    try:
        yield from readers[path.suffix.lower()](path)
    except DataError as error:  # the rest of this file cannot be read
        yield str(path), error


def read_jsonl(path: Path) -> Iterator[ReadRow]:
    """Yield one object per line; empty lines are skipped."""
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield row_or_error(row_of_line, f"{path}:{number}", line)


def read_json(path: Path) -> Iterator[ReadRow]:
    """Yield the objects of a JSON list, or of JSON lines in a file that ends in .json."""
    with open_text(path) as file:
        text = file.read()
    if not text.lstrip().startswith("["):
        yield from read_jsonl(path)
        return
    if not is_unicode(text):
        for number, line in enumerate(text.split("\n"), 1):
            check_utf8(line, f"{path}:{number}")
    items = parse(text, str(path), whole=True)
    assert isinstance(items, list)  # the text begins with [
    for number, item in enumerate(items, 1):
        yield row_or_error(as_row, f"{path}:item {number}", item)


def read_csv(path: Path) -> Iterator[ReadRow]:
    """Yield the rows below the header line; empty lines are skipped."""
    with open_text(path) as file:
        reader = csv.DictReader(file, strict=True)
        try:
            names = list(reader.fieldnames or [])
            for name in names:
                check_utf8(name, f"{path}:{reader.line_num}")
            check_once(names, f"{path}:{reader.line_num}")
            for row in reader:
                yield row_or_error(row_of_csv, f"{path}:{reader.line_num}", row)
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: {error}; fix the line") from None


def read_parquet(path: Path) -> Iterator[ReadRow]:
    """Yield the rows of a Parquet file, PARQUET_ROWS in memory at a time."""
    import pyarrow
    import pyarrow.parquet

    from sft.rows import arrow

    def unreadable(error: Exception) -> DataError:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return DataError(f"{path}: is not a readable Parquet file ({shown(reason)}); write it again")

    try:
        file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
        batches = file.iter_batches(PARQUET_ROWS)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise unreadable(error) from None
    check_once(file.schema_arrow.names, str(path))
    as_written = arrow.as_written(file.schema_arrow)
    number = 0
    while True:
        try:
            batch = next(batches, None)
            rows = [] if batch is None else batch.to_pylist()
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            raise unreadable(error) from None
        for row in rows:
            number += 1
            yield row_or_error(as_written, f"{path}:row {number}", row)
        if batch is None:
            break
    if number != file.metadata.num_rows:
        raise DataError(f"{path}: announces {file.metadata.num_rows} rows but holds {number}; write it again")


def open_text(path: Path) -> TextIO:
    """Open a text file. Bytes that are not UTF-8 become lone surrogates, which `check_utf8` finds line by line."""
    return path.open(
        encoding="utf-8-sig", errors="surrogateescape", newline="" if path.suffix.lower() == ".csv" else None
    )


def check_utf8(text: str, where: str) -> None:
    """Raise DataError for text from `open_text` that was not UTF-8."""
    if not is_unicode(text):
        raise DataError(f"{where}: is not UTF-8 text; convert the file to UTF-8")


def check_once(names: list[str], where: str) -> None:
    """Raise DataError for a column that a file has twice: one of the two would be lost."""
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{where}: has the column {shown(repr(name))} twice; rename one")


def row_or_error(read: Callable[[str, Content], Row], where: str, content: Content) -> ReadRow:
    """Return where a row is, and what `read` makes of its content, or the DataError that it raises."""
    try:
        return where, read(where, content)
    except DataError as error:
        return where, error


def row_of_line(where: str, line: str) -> Row:
    """Return the object in a line of JSON. Raises DataError."""
    check_utf8(line, where)
    return as_row(where, parse(line, where))


def row_of_csv(where: str, row: dict[str | None, str | list[str] | None]) -> Row:
    """Return a row of a CSV file. Raises DataError.

    csv.DictReader puts surplus fields under the key None, and None in place of missing ones.
    """
    values = [value for value in row.values() if isinstance(value, str)]
    if len(values) < len(row):
        raise DataError(f"{where}: does not have the header's number of fields; fix the line")
    check_utf8("".join(values), where)
    return {str(name): value for name, value in row.items()}


def as_row(where: str, value: object) -> Row:
    """Return `value` if it is a JSON object. Raises DataError."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: is not a JSON object but {type(value).__name__}; write one object per row")
    return value
