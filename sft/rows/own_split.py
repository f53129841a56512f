"""Rows whose own column says that they are not for training: `{"question": "…", "answer": "…", "split": "test"}`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

from sft.errors import DataError, shown
from sft.rows.forms.columns import without
from sft.rows.row import ReadRow, Row
from sft.rows.selections import Selection
from sft.rows.split_names import WORDS, is_held_out
from sft.settings.fields import Settings

COLUMN = "split"
HELD_OUT = frozenset((*WORDS["validation"], *WORDS["test"]))


def checked(rows: Iterator[ReadRow], purpose: str, selection: Selection, settings: Settings) -> Iterator[ReadRow]:
    """Yield rows of a selection; for "train", with errors in place of those that say that they are held out.

    Whoever trains on a split whose name says so wants its rows.
    """
    return apart(rows, settings) if purpose == "train" and not is_held_out(selection.slice.split) else rows


def apart(rows: Iterator[ReadRow], settings: Settings) -> Iterator[ReadRow]:
    """Yield rows for training, with errors in place of those that are not."""
    named = json.loads(settings.columns)
    for where, row in rows:
        if isinstance(row, DataError) or not (column := column_of(row, named)):
            yield where, row
            continue
        what = f"its column `{shown(column)}` says {shown(str(row[column]))}, and it is among the training rows"
        remedy = f"put such rows into a file of their own, as test.jsonl, or leave the column out: {without(column)}"
        yield where, DataError(f"{where}: {what}; {remedy}")


def column_of(row: Row, named: Collection[str]) -> str:
    """Return the column of a row that says that it is held out, or "". `named`: those that the settings name."""
    names = (name for name in row if name.strip().lower() == COLUMN and name not in named)
    return next((name for name in names if says_held_out(row[name])), "")


def says_held_out(value: object) -> bool:
    """Return whether a value is a word for a split that is not trained."""
    return isinstance(value, str) and value.strip().lower() in HELD_OUT
