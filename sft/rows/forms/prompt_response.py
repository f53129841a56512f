"""A prompt and its response in two columns: `{"question": "…", "answer": "…"}`. Both are texts or lists of messages.

GSM8K has question and answer, alpaca instruction and output, TRL prompt and completion (as text, which TRL trains
without a template, or as messages), Dolly instruction, context and response, and axolotl has most of the others:
https://huggingface.co/datasets/openai/gsm8k
https://github.com/tatsu-lab/stanford_alpaca#data-release
https://huggingface.co/docs/trl/dataset_formats
https://huggingface.co/datasets/databricks/databricks-dolly-15k
https://docs.axolotl.ai/docs/dataset-formats/inst_tune.html
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace

from sft.errors import DataError, SettingsError, shown, wrong
from sft.rows.conversation import Message
from sft.rows.files import Row
from sft.rows.forms import history, messages
from sft.rows.forms.columns import NAMES, Columns, without
from sft.rows.values import checked_text, from_text
from sft.settings.fields import Settings
from sft.settings.kinds import ColumnRole

SETTINGS: Mapping[ColumnRole, str] = {"prompt": "PROMPT_COLUMN", "response": "RESPONSE_COLUMN"}


def used(columns: Columns) -> list[str]:
    """Return the columns of a prompt and its response, and those that belong to the prompt."""
    prompt = prompts(columns)
    if not prompt or "response" not in columns.filled:
        return []
    inputs = [name for name in columns.all_of("input") if name not in prompt]
    return [*prompt, *inputs, *columns.all_of("response", "system", "history")]


def prompts(columns: Columns) -> list[str]:
    """Return the filled columns of the prompt: `input` if there is no other, as in rows of input and output."""
    if found := columns.all_of("prompt"):
        return found
    named = "prompt" in columns.named.values()
    return [] if named else [name for name in columns.all_of("input") if name.strip().lower() == "input"]


def convert(columns: Columns) -> list[Message]:
    """Return the messages. The answers in a prompt that is a list of messages are context."""
    prompt = columns.one("prompt") if columns.filled.get("prompt") else prompts(columns)[0]
    response = columns.one("response")
    asked = chat_in(columns, prompt)
    before = [replace(message, is_target=message.role != "assistant") for message in asked]
    if asked and columns.filled.get("input"):
        extra = columns.all_of("input")[0]
        what = f"column {prompt!r} is a list of messages, to which the column {extra!r} cannot be added"
        raise DataError(f"{columns.where}: {what}; remove it, or set {without(extra)}")
    if not asked:
        before = [Message("user", history.prompt_of(columns, prompt))]
    answers = chat_in(columns, response) or [Message("assistant", text_in(columns, response))]
    if not any(message.is_answer for message in answers):
        raise DataError(f"{columns.where}: column {response!r} has no assistant message, so no target token; add one")
    return [*history.history_of(columns), *before, *answers]


def text_in(columns: Columns, name: str) -> str:
    """Return the text in a column. Raises DataError."""
    return checked_text(columns.row[name], columns.where, f"column {name!r}")


def chat_in(columns: Columns, name: str) -> list[Message]:
    """Return the messages in a column, which may be text that holds JSON; nothing if it is an ordinary text."""
    value = columns.row[name]
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = from_text(value, columns.where, "")
        except DataError:
            return []
    value = [value] if isinstance(value, dict) else value  # LLaMA-Factory's `chosen` is one message
    if not isinstance(value, list) or not value:
        return []
    is_chat = all(isinstance(entry, dict) and ("role" in entry or "from" in entry) for entry in value)
    return messages.messages_of(value, columns.where, f"column {name!r}") if is_chat else []


def refuse(columns: Columns) -> DataError:
    """Return what is wrong with a row of no form: the first column that is missing, not text, or empty."""
    for role, setting in SETTINGS.items():
        names = columns.candidates(role)
        there = [name for name in names if name in columns.row]
        if not there:
            column = names[0] if names else NAMES[role][0]
            what = f"has no column {shown(repr(column))} but {names_of([columns.row])}"
            return DataError(f"{columns.where}: {what}; {remedy(setting, column, [columns.row])}")
        if columns.filled.get(role):
            continue
        try:
            text_in(columns, there[0])
        except DataError as error:
            return error
        no_target = ", so no target token" if role == "response" else ""
        what = f"column {there[0]!r} is empty{no_target}"
        return DataError(f"{columns.where}: {what}; fill it or remove the row")
    return DataError(f"{columns.where}: holds no conversation")


def check_columns(rows: list[Row], settings: Settings) -> None:
    """Raise SettingsError for a column that none of the `rows`, all of no form, has: then the setting is wrong."""
    problems = []
    for role, setting in SETTINGS.items():
        named = [Columns.of(row, "", settings).candidates(role) for row in rows]
        if rows and not any(name in row for row, names in zip(rows, named, strict=True) for name in names):
            column = named[0][0] if named[0] else NAMES[role][0]
            what = f"no row of {settings.dataset} has that column but {names_of(rows)}"
            problems.append(wrong(setting, column, what, remedy(setting, column, rows)))
    if problems:
        raise SettingsError(problems)


def names_of(rows: list[Row]) -> str:
    """Return the columns of rows in words."""
    return shown(", ".join(dict.fromkeys(str(name) for row in rows for name in row)), 200) or "nothing"


def remedy(setting: str, column: str, rows: list[Row]) -> str:
    """Return what to do if rows lack the column that a setting names: the column that was probably meant, if any."""
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    if names == ["text"]:
        return "plain text is not trained on: write a prompt and a response"
    near = difflib.get_close_matches(column, names, n=1)
    return f"did you mean {setting}={shown(near[0])}?" if near else f"set {setting} to one of them"
