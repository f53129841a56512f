"""Rows as users write them: local files (jsonl, json, csv, parquet), and what a row must hold.

A row that cannot be used stops no reader: its error comes in its place, so that all of them can be named at once.
Nothing heavy is imported, so that the first rows are looked at before a run is made.
"""

from __future__ import annotations

import csv
import difflib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from sft.errors import DataError, SettingsError, shown, wrong
from sft.settings.fields import DATA_SUFFIXES, Settings, is_unicode, once

Row = dict[str, Any]
Placed = tuple[str, Row | DataError]  # "file:line", and the row or what is wrong with it

HELD_OUT_NAMES = ("validation", "valid", "val", "dev", "test", "eval")
ROLES = ("system", "user", "assistant", "tool")
PARQUET_ROWS = 1000  # that are in memory at a time
LISTED = 10  # rows that are named of those that cannot be used; the others are counted
LOOK_ROWS, LOOK_S = 10_000, 2.0  # of a file, and of a data set, that are looked at before a run is made
LOOK_JSON_BYTES = 2**26  # a JSON list is read whole: a larger one is left to the run
csv.field_size_limit(sys.maxsize)


class BadRows:
    """The rows of a data set that cannot be used."""

    def __init__(self) -> None:
        self.first: list[str] = []
        self.number = 0

    def add(self, error: DataError) -> None:
        """Note one."""
        self.number += 1
        if self.number <= LISTED:
            self.first.append(str(error))

    def check(self) -> None:
        """Raise DataError if there is any: the first ones, a line each, and how many more there are."""
        if self.number > LISTED:
            more = self.number - LISTED
            raise DataError("\n".join([*self.first, f"and {more:,} more row{'s' * (more > 1)} that cannot be used"]))
        if self.number:
            raise DataError("\n".join(self.first))


# Files


def local_files(path: Path) -> dict[str, list[Path]]:
    """Return the files of a local data set as {"train": [...], "validation": [...]}.

    In a folder, a file's name says what it is: train*, validation* (or valid, val, dev), test*. A validation file is
    preferred to a test file for evaluation; other files are training rows. Raises SettingsError for nothing to read.
    """
    if path.is_file():
        return {"train": [path], "validation": []}
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in DATA_SUFFIXES and not file.is_dir())
    if gone := [file for file in files if not file.exists()]:
        what = f"{gone[0].name} in it is a link to a file that is not there"
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


def read_file(path: Path) -> Iterator[Placed]:
    """Yield the rows of a local file, errors in the places of those that cannot be read.

    Raises SettingsError for a file of another kind.
    """
    readers = {".jsonl": read_jsonl, ".json": read_json, ".csv": read_csv, ".parquet": read_parquet}
    if path.suffix.lower() not in readers:
        raise SettingsError([wrong("DATASET", path, "has an unknown file type", f"use {', '.join(DATA_SUFFIXES)}")])
    try:
        yield from readers[path.suffix.lower()](path)
    except DataError as error:  # what follows in this file cannot be read
        yield str(path), error


def tried(read: Callable[..., Row], where: str, *arguments: Any) -> Placed:
    """Return where a row is, and what `read` makes of it or the error that it raises."""
    try:
        return where, read(where, *arguments)
    except DataError as error:
        return where, error


def open_text(path: Path) -> TextIO:
    """Open a text file; bytes that are no UTF-8 become lone surrogates, which `need_utf8` finds line by line."""
    return path.open(
        encoding="utf-8-sig", errors="surrogateescape", newline="" if path.suffix.lower() == ".csv" else None
    )


def need_utf8(text: str, where: str) -> None:
    """Raise DataError for a text read with `open_text` that was no UTF-8."""
    if not is_unicode(text):
        raise DataError(f"{where}: is not UTF-8 text; convert the file to UTF-8")


def read_jsonl(path: Path) -> Iterator[Placed]:
    """Yield one object per line; empty lines are passed over."""
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield tried(json_row, f"{path}:{number}", line)


def json_row(where: str, line: str) -> Row:
    """Return the object that a line of JSON holds. Raises DataError."""
    need_utf8(line, where)
    return as_row(where, parse(line, where))


def read_json(path: Path) -> Iterator[Placed]:
    """Yield the objects of a JSON list, or of a file that is JSON lines under another name."""
    with open_text(path) as file:
        text = file.read()
    if not text.lstrip().startswith("["):
        yield from read_jsonl(path)
        return
    if not is_unicode(text):
        for number, line in enumerate(text.split("\n"), 1):
            need_utf8(line, f"{path}:{number}")
    for number, item in enumerate(parse(text, str(path), whole=True), 1):
        yield tried(as_row, f"{path}:item {number}", item)


def read_csv(path: Path) -> Iterator[Placed]:
    """Yield the rows below the header line; empty lines are passed over."""
    with open_text(path) as file:
        reader = csv.DictReader(file, strict=True)
        try:
            names = list(reader.fieldnames or [])
            for name in names:
                need_utf8(name, f"{path}:{reader.line_num}")
                if names.count(name) > 1:
                    raise DataError(f"{path}:{reader.line_num}: has the column {shown(repr(name))} twice; rename one")
            for row in reader:
                yield tried(csv_row, f"{path}:{reader.line_num}", row)
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: {error}; fix the line") from None


def csv_row(where: str, row: dict[str | None, Any]) -> Row:
    """Return a row of a CSV file as the reader found it. Raises DataError."""
    if None in row or None in row.values():
        raise DataError(f"{where}: has another number of fields than the header; fix the line")
    need_utf8("".join(row.values()), where)
    return {str(name): value for name, value in row.items()}


def read_parquet(path: Path) -> Iterator[Placed]:
    """Yield the rows of a Parquet file, some at a time."""
    import pyarrow
    import pyarrow.parquet

    number = 0

    def broken(error: Exception) -> DataError:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return DataError(f"{path}: is not a readable Parquet file ({shown(reason)}); write it again")

    try:
        file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
        names = file.schema_arrow.names
        batches = file.iter_batches(PARQUET_ROWS)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise broken(error) from None
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: has the column {shown(repr(name))} twice; rename one")
    while True:
        try:
            batch = next(batches, None)
            rows = [] if batch is None else batch.to_pylist()
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            raise broken(error) from None
        for row in rows:
            number += 1
            yield f"{path}:row {number}", row
        if batch is None:
            break
    if number != file.metadata.num_rows:
        raise DataError(
            f"{path}: says that it has {file.metadata.num_rows} rows, but {number} are there; write it again"
        )


def parse(text: str, where: str, whole: bool = False) -> Any:
    """Return parsed JSON, of a line or of a `whole` file. Raises DataError."""
    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        where = f"{where}:{error.lineno}" if whole else where
        raise DataError(f"{where}: is not valid JSON ({error.msg} at column {error.colno}); fix the line") from None
    except RecursionError:
        raise DataError(f"{where}: is nested too deep; fix the line") from None
    except ValueError as error:
        what = "holds a number of too many digits" if "integer string" in str(error) else shown(error, 200)
        raise DataError(f"{where}: {what}; fix the line") from None


def as_row(where: str, value: Any) -> Row:
    """Return `value` if it is an object. Raises DataError."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: is not a JSON object but {type(value).__name__}; write one object per row")
    return value


# A row


def conversation(row: Row | DataError, where: str, settings: Settings) -> list[dict[str, str]]:
    """Return a row's messages, from `messages` or from the prompt and response columns.

    Raises DataError naming the place of a row that could not be read, has neither, or wrong ones.
    """
    if isinstance(row, DataError):
        raise row
    if row.get("messages") is not None:
        messages = row["messages"]
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise DataError(f'{where}: `messages` is not a list of objects; write [{{"role": …, "content": …}}, …]')
        for message in messages:
            if message.get("role") not in ROLES:
                raise DataError(f"{where}: role {shown(repr(message.get('role')))} is unknown; use {', '.join(ROLES)}")
            if not isinstance(message.get("content"), str):
                raise DataError(f"{where}: the content of a {message['role']} message is not text; write a string")
            need_unicode(message["content"], f"{where}: the content of a {message['role']} message")
        found = [{"role": message["role"], "content": message["content"]} for message in messages]
        if not any(message["role"] == "assistant" and message["content"] for message in found):
            raise DataError(f"{where}: has no assistant message, so no target token; add one or remove the row")
        if not any(message["role"] == "assistant" and message["content"] for message in found[1:]):
            raise DataError(f"{where}: nothing stands before the assistant's words; put a user message first")
        while found[-1]["role"] != "assistant":
            found.pop()  # a question without an answer teaches nothing
    else:
        texts = {}
        for name, column in (("PROMPT_COLUMN", settings.prompt_column), ("RESPONSE_COLUMN", settings.response_column)):
            if column not in row:
                what = f"has no column {shown(repr(column))} but {names_of([row])}"
                raise DataError(f"{where}: {what}; {which_column(name, column, [row])}")
            if not isinstance(row[column], str):
                kind = type(row[column]).__name__
                raise DataError(f"{where}: column {column!r} is not text but {kind}; write a string")
            if not row[column].strip():
                no_target = ", so no target token" if name == "RESPONSE_COLUMN" else ""
                raise DataError(f"{where}: column {column!r} is empty{no_target}; fill it or remove the row")
            need_unicode(row[column], f"{where}: column {column!r}")
            texts[name] = row[column]
        found = [
            {"role": "user", "content": texts["PROMPT_COLUMN"]},
            {"role": "assistant", "content": texts["RESPONSE_COLUMN"]},
        ]
    if settings.system_prompt and found[0]["role"] != "system":
        found.insert(0, {"role": "system", "content": settings.system_prompt})
    return found


def need_unicode(text: str, what: str) -> None:
    """Raise DataError for a text that no file can hold; JSON can escape the halves of a character one by one."""
    if not is_unicode(text):
        raise DataError(f"{what} holds half a character (a lone surrogate); fix the text")


# The first look


def names_of(rows: list[Row]) -> str:
    """Return the columns of rows, to be read."""
    return shown(", ".join(dict.fromkeys(str(name) for row in rows for name in row)), 200) or "nothing"


def which_column(setting: str, column: str, rows: list[Row]) -> str:
    """Return what to do where rows do not have the column that a setting names."""
    near = difflib.get_close_matches(column, {str(name) for row in rows for name in row}, n=1)
    return f"did you mean {setting}={shown(near[0])}?" if near else f"set {setting} to one of them"


def check_columns(rows: list[Row], settings: Settings) -> None:
    """Raise SettingsError if no row has a column that the settings name: then they are wrong, not the rows."""
    plain = [row for row in rows if row.get("messages") is None]
    problems = []
    for name, column in (("PROMPT_COLUMN", settings.prompt_column), ("RESPONSE_COLUMN", settings.response_column)):
        if plain and len(plain) == len(rows) and not any(column in row for row in plain):
            what = f"no row of {settings.dataset} has that column but {names_of(plain)}"
            problems.append(wrong(name, column, what, which_column(name, column, plain)))
    if problems:
        raise SettingsError(problems)


def look(path: Path, settings: Settings) -> None:
    """Look at the first rows of a local data set, for LOOK_S seconds at most.

    Raises SettingsError for wrong columns, and DataError for rows that cannot be used or none at all. The run itself
    looks at every row.
    """
    ends = time.monotonic() + LOOK_S
    bad, seen, whole = BadRows(), list[Row](), True
    for split, files in local_files(path).items():
        for file in files:
            # A pipe can be read only once, by the run, and only when somebody writes into it.
            if (
                not file.is_file()
                or time.monotonic() > ends
                or (file.suffix.lower() == ".json" and file.stat().st_size > LOOK_JSON_BYTES)
            ):
                whole = False
                continue
            number = 0
            for where, row in itertools.islice(read_file(file), LOOK_ROWS):
                number += 1
                if not isinstance(row, DataError):
                    seen.append(row)
                try:
                    conversation(row, where, settings)
                except DataError as error:
                    bad.add(error)
                if time.monotonic() > ends:
                    break
            whole = whole and number < LOOK_ROWS and time.monotonic() < ends
        if split == "train" and whole and not seen and not bad.number:
            raise DataError(f"DATASET={shown(path)}: has no training rows; add some")
    check_columns(seen, settings)
    bad.check()
