"""A first look at local data, before a run directory is made. The run itself checks every row."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

from sft.errors import DataError, shown
from sft.rows import forms, own_split
from sft.rows.bad_rows import BadRows
from sft.rows.files import json_files
from sft.rows.files import kind as kind_of_file
from sft.rows.forms import kinds, missing, text
from sft.rows.forms.columns import Columns
from sft.rows.row import ReadRow, Row
from sft.rows.selections import DataFile, Selection, check_apart
from sft.rows.splits import local_files
from sft.settings.fields import Settings

LOOK_ROWS = 10_000  # of each file
LOOK_S = 2.0  # for the whole data set
LOOK_JSON_BYTES = 2**26  # of JSON that is read whole: a larger file is left to the run


def check_first_rows(path: Path, settings: Settings, seconds: float = LOOK_S) -> None:
    """Check the first rows of a local data set, as many as can be read in so many seconds.

    Raises SettingsError for columns that no row has, and DataError for rows that cannot be used and for a training
    split without rows.
    """
    deadline = time.monotonic() + seconds
    bad, seen = BadRows(), list[Row]()
    found = local_files(path, settings)
    if all(is_small(file) for file in found.used):
        check_apart(found.selections, settings)  # reads files to count their rows
    for split, selections in found.selections.items():
        whole = [check_selection(split, selection, deadline, settings, seen, bad) for selection in selections]
        if split == "train" and all(whole) and not seen and not bad.number:
            raise DataError(f"DATASET={shown(path)}: has no training rows; add some")
    check_columns(seen, settings)
    bad.check()


def check_selection(
    split: str, selection: Selection, deadline: float, settings: Settings, seen: list[Row], bad: BadRows
) -> bool:
    """Add a selection's first rows to `seen`, and what is wrong with them to `bad`. Return whether it has no others."""

    def check(rows: Iterator[ReadRow]) -> bool:
        return check_rows(own_split.checked(rows, split, selection, settings), deadline, settings, seen, bad)

    if selection.slice.is_whole:
        readable = [file for file in selection.files if may_be_read(file)]
        read = [check(file.read()) for file in readable]
        return all(read) and len(read) == len(selection.files)
    if not all(may_be_read(file) and (is_small(file) or not selection.slice.needs_count) for file in selection.files):
        return False
    return check(selection.read())


def is_small(file: DataFile) -> bool:
    """Whether the whole file may be read to count its rows."""
    return file.path.is_file() and file.path.stat().st_size <= LOOK_JSON_BYTES


def may_be_read(file: DataFile) -> bool:
    """Whether reading the first rows is quick. A pipe can be read only once, by the run, while somebody writes."""
    if not file.path.is_file() or is_small(file):
        return file.path.is_file()
    return kind_of_file(file.path) not in (".json", ".jsonl", ".ndjson") or not json_files.is_whole(file.path)


def check_rows(rows: Iterator[ReadRow], deadline: float, settings: Settings, seen: list[Row], bad: BadRows) -> bool:
    """Add the first rows to `seen`, and what is wrong with them to `bad`. Return whether every row was read."""
    if time.monotonic() > deadline:
        return False
    number, kind = 0, forms.kind_of((("", row) for row in seen), settings)
    for where, row in itertools.islice(rows, LOOK_ROWS):
        number += 1
        if not isinstance(row, DataError):
            seen.append(row)
        kind = kind or forms.kind_of([(where, row)], settings)
        try:
            forms.check(row, where, settings, kind or "conversations")
        except DataError as error:
            bad.add(error)
        if time.monotonic() > deadline:
            return False
    return number < LOOK_ROWS


def check_columns(rows: list[Row], settings: Settings) -> None:
    """Raise SettingsError if the settings name columns that no row has: then they are wrong, not the rows.

    Rows of another form have no such columns; one of them, or of preferences, is enough to leave it to the rows' own
    errors.
    """
    columns = [Columns.of(row, settings.dataset, settings) for row in rows]
    if not any(text.is_text(found) or forms.forms_of(found) or kinds.problem(found) for found in columns):
        missing.check_columns(rows, settings)
