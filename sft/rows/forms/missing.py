"""What is wrong with rows of no form: the column that they lack or that is empty, and the setting that would help."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping

from sft.errors import DataError, SettingsError, shown, wrong
from sft.rows.files import Row
from sft.rows.forms import prompt_response, sharegpt, unused
from sft.rows.forms.columns import NAMES, Columns, given, recognised, says_something
from sft.settings.fields import Settings
from sft.settings.kinds import ColumnRole

SETTINGS: Mapping[ColumnRole, str] = {"prompt": "PROMPT_COLUMN", "response": "RESPONSE_COLUMN"}
LONGEST_NAME = 40  # characters
TREE = {"parent_id", "text", "role"}  # columns of https://huggingface.co/datasets/OpenAssistant/oasst1


def refuse(columns: Columns) -> DataError:
    """Return what is wrong with a row of no form: the first column that is missing, not text, or empty."""
    for role, setting in SETTINGS.items():
        names = columns.candidates(role)
        there = [name for name in names if name in columns.row]
        if not there and not (role == "prompt" and prompt_response.prompts(columns)):
            column = names[0] if names else NAMES[role][0]
            what = f"has no column {shown(repr(column))} but {names_of([columns.row])}"
            return DataError(f"{columns.where}: {what}; {remedy(role, setting, column, [columns.row])}")
        if not there or columns.filled.get(role):
            continue
        is_null = columns.row[there[0]] is None
        try:
            prompt_response.text_in(columns, there[0])
        except DataError as error:
            if not is_null:
                return error
        no_target = ", so no target token" if role == "response" else ""
        what = f"column {there[0]!r} is {'null' if is_null else 'empty'}{no_target}"
        return DataError(f"{columns.where}: {what}; fill it or remove the row")
    return DataError(f"{columns.where}: holds no conversation")


def check_columns(rows: list[Row], settings: Settings) -> None:
    """Raise SettingsError for a column that none of the `rows`, all of no form, has: then the setting is wrong."""
    problems, remedies = list[str](), list[str]()
    found = [Columns.of(row, settings.dataset, settings) for row in rows]
    for role, setting in SETTINGS.items():
        if rows and not any(has(columns, role) for columns in found):
            names = found[0].candidates(role)
            column = names[0] if names else NAMES[role][0]
            what = f"no row of {settings.dataset} has that column but {names_of(rows)}"
            remedies.append(remedy(role, setting, column, rows))
            problems.append(wrong(setting, column, what, remedies[-1]))
    if len(remedies) > len(set(remedies)):  # one for both
        what = f"no row of {settings.dataset} has a prompt or a response but {names_of(rows)}"
        problems = [wrong("COLUMNS", settings.columns, what, remedies[0])]
    if problems:
        raise SettingsError(problems)


def has(columns: Columns, role: ColumnRole) -> bool:
    """Return whether a row has a column of a role, filled or not."""
    if role == "prompt" and prompt_response.prompts(columns):
        return True
    return any(name in columns.row for name in columns.candidates(role))


def names_of(rows: list[Row]) -> str:
    """Return the columns of rows in words."""
    return shown(", ".join(columns_of(rows)), 200) or "nothing"


def columns_of(rows: Iterable[Row]) -> list[str]:
    """Return the names of all columns that rows have."""
    return list(dict.fromkeys(str(name) for row in rows for name in row))


def remedy(role: ColumnRole, setting: str, column: str, rows: list[Row]) -> str:
    """Return what to do if rows lack the column of a role: the column that was probably meant, if any."""
    names = columns_of(rows)
    if set(names) >= TREE or any(is_tree(value) for row in rows for value in row.values()):
        return "these are messages of a tree: write every conversation in it as a row with `messages`"
    if any(len(name) > LONGEST_NAME or name.endswith((".", "?", "!")) for name in names):
        return "these look like a row: put a line with the names of the columns above it"
    if all(map(sharegpt.is_message, rows)):
        remedy = 'these are messages: write every conversation as one row, {"messages": [{"role": …, "content": …}, …]}'
        return remedy + (f", or set {given('text', 'text')} to train each as a text" if "text" in names else "")
    if inside := chat_inside(rows):
        return f"if it is `{shown(inside)}`, set {given(inside, 'messages')}"
    if near := difflib.get_close_matches(column, [name for name in names if recognised(name) in (None, role)], n=1):
        return f"did you mean {setting}={shown(near[0])}?"
    if inside := named_inside(role, rows):
        return f"if it is `{shown(inside)}`, set {given(inside, role)}"
    free = [name for name in names if is_free(name) and any(says_text(row.get(name)) for row in rows)]
    if not free and recognised(column) == role:
        return f"no column is left that could be the {role}: add one"
    if len(free) == 2 and not any(recognised(name) in SETTINGS for name in names):
        roles = json.dumps(dict(zip(free, SETTINGS, strict=True)))
        return f"if that is what they are, set COLUMNS={roles}"
    if len(free) == 1 and not any(recognised(name) in SETTINGS for name in names):
        return f"if `{shown(free[0])}` is a text to train on as it is, set {given(free[0], 'text')}"
    return f"set {setting} to one of them"


def is_tree(value: object) -> bool:
    """Return whether a value is a message with the replies to it, as in a file of OASST's trees."""
    return isinstance(value, dict) and "replies" in value


def chat_inside(rows: list[Row]) -> str:
    """Return the path of a list of messages inside of a column, or ""."""
    return path_inside(rows, lambda _, inner: sharegpt.is_chat(inner))


def named_inside(role: ColumnRole, rows: list[Row]) -> str:
    """Return the path of a text inside of a column whose name there is one of a role's, or ""."""
    return path_inside(rows, lambda key, inner: recognised(key) == role and says_text(inner))


def path_inside(rows: list[Row], is_sought: Callable[[str, object], bool]) -> str:
    """Return the path, column.key, of the first key and value sought inside of a column, or ""."""
    return next(
        (
            f"{column}.{key}"
            for row in rows
            for column, value in row.items()
            if isinstance(value, dict)
            for key, inner in value.items()
            if is_sought(str(key), inner)
        ),
        "",
    )


def is_free(name: str) -> bool:
    """Return whether the name of a column leaves open what it holds."""
    return recognised(name) in (None, "input", "text") and not unused.is_about(name)


def says_text(value: object) -> bool:
    """Return whether a value is a text that is not empty."""
    return isinstance(value, str) and says_something(value)
