"""A question and its answer in two columns: `{"question": "…", "answer": "…"}`.

PROMPT_COLUMN and RESPONSE_COLUMN name the columns; the defaults are those of GSM8K:
https://huggingface.co/datasets/openai/gsm8k
"""

from __future__ import annotations

import difflib

from sft.errors import DataError, SettingsError, shown, wrong
from sft.rows.conversation import Message
from sft.rows.files import Row
from sft.rows.values import checked_text
from sft.settings.fields import Settings


def columns(settings: Settings) -> tuple[str, ...]:
    """Return the columns that the settings name."""
    return settings.prompt_column, settings.response_column


def convert(row: Row, where: str, settings: Settings) -> list[Message]:
    """Return the two messages. Raises DataError for a missing or empty column."""
    for setting, column in named(settings):
        if column not in row:
            what = f"has no column {shown(repr(column))} but {names_of([row])}"
            raise DataError(f"{where}: {what}; {remedy(setting, column, [row])}")
        text = checked_text(row[column], where, f"column {column!r}")
        if not text.strip():
            no_target = ", so no target token" if setting == "RESPONSE_COLUMN" else ""
            raise DataError(f"{where}: column {column!r} is empty{no_target}; fill it or remove the row")
    prompt, response = (str(row[column]) for column in columns(settings))
    return [Message("user", prompt), Message("assistant", response)]


def check_columns(rows: list[Row], settings: Settings) -> None:
    """Raise SettingsError for a column that none of the `rows`, all of this form, has: then the setting is wrong."""
    problems = []
    for setting, column in named(settings):
        if rows and not any(column in row for row in rows):
            what = f"no row of {settings.dataset} has that column but {names_of(rows)}"
            problems.append(wrong(setting, column, what, remedy(setting, column, rows)))
    if problems:
        raise SettingsError(problems)


def named(settings: Settings) -> tuple[tuple[str, str], ...]:
    """Return each setting that names a column, with the column."""
    return ("PROMPT_COLUMN", settings.prompt_column), ("RESPONSE_COLUMN", settings.response_column)


def names_of(rows: list[Row]) -> str:
    """Return the columns of rows in words."""
    return shown(", ".join(dict.fromkeys(str(name) for row in rows for name in row)), 200) or "nothing"


def remedy(setting: str, column: str, rows: list[Row]) -> str:
    """Return what to do if rows lack the column that a setting names: the column that was probably meant, if any."""
    near = difflib.get_close_matches(column, {str(name) for row in rows for name in row}, n=1)
    return f"did you mean {setting}={shown(near[0])}?" if near else f"set {setting} to one of them"
