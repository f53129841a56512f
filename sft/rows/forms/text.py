"""A text alone, for continued pretraining: `{"text": "…"}`. Every token of it is a target.

As in TRL (language modeling), LLaMA-Factory (pre-training data), axolotl (pretraining) and most corpora on the hub:
https://huggingface.co/docs/trl/dataset_formats
https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md
https://docs.axolotl.ai/docs/dataset-formats/pretraining.html
"""

from __future__ import annotations

from sft.errors import DataError
from sft.rows.forms import sharegpt
from sft.rows.forms.columns import Columns, given, says_something, without
from sft.rows.forms.segments import Segment, segments_of
from sft.rows.values import checked_text
from sft.settings.kinds import ColumnRole

# Roles of columns that a text alone does not have.
CONVERSATION: tuple[ColumnRole, ...] = ("messages", "prompt", "response")
TREE = {"parent_id", "role"}  # beside a text: a message of https://huggingface.co/datasets/OpenAssistant/oasst1
# Beside a text, these are what a model is to write about it: then the text is a prompt, unless the settings say not.
OUTPUTS = frozenset(
    {
        "summary", "highlights", "translation", "reply", "label", "labels", "label_text", "sentiment", "emotion",
        "intent", "code", "sql",
    }
)  # fmt: skip


def is_text(columns: Columns) -> bool:
    """Whether a row is a text alone, maybe an empty one."""
    named = set(columns.named.values())
    if "text" in named:
        return any(name in columns.row for name in columns.candidates("text"))
    if named.intersection(CONVERSATION) or any(columns.filled.get(role) for role in CONVERSATION):
        return False
    if columns.row.keys() >= TREE or sharegpt.is_message(columns.row):
        return False
    if columns.filled.get("text"):
        return True
    empty = any(name in columns.row for role in CONVERSATION for name in columns.candidates(role))
    return not empty and any(name in columns.row for name in columns.candidates("text"))


def used(columns: Columns) -> list[str]:
    """Return the column of the text."""
    return columns.all_of("text") or [name for name in columns.candidates("text") if name in columns.row]


def convert(columns: Columns) -> tuple[Segment, ...]:
    """Return the text in segments, of which some may be context; nothing but white space is none. Raises DataError."""
    if not columns.filled.get("text"):
        return ()
    name = columns.one("text")
    outputs = [
        column
        for column, value in columns.row.items()
        if column.strip().lower() in OUTPUTS and column not in columns.named and says_something(value)
    ]
    if outputs and name not in columns.named:
        what = f"has `{name}` and `{outputs[0]}`, which could be the response to it"
        remedy = f"set COLUMNS to name both as prompt and response, or set {without(outputs[0])} to train the text"
        raise DataError(f"{columns.where}: {what}; {remedy}")
    value, what = columns.row[name], f"column {name!r}"
    if isinstance(value, list) or name.strip().lower() == "segments":
        return segments_of(value, columns.where, what)
    return ((checked_text(value, columns.where, what), True),)


def in_conversations(columns: Columns) -> DataError:
    """Return the error for a text among conversations."""
    what = "is a text alone, in a data set of conversations: its first row is one"
    return DataError(f"{columns.where}: {what}; remove the row, or train the texts in a run of their own")


def no_text(columns: Columns, is_conversation: bool) -> DataError:
    """Return the error for a row of another kind among texts."""
    if is_conversation:
        what = "is a conversation, in a data set of texts: its first row is a text alone"
        return DataError(f"{columns.where}: {what}; remove the row, or train the conversations in a run of their own")
    there = ", ".join(f"`{name}`" for name in list(columns.row)[:6]) or "nothing"
    what = f"has no text but {there}, in a data set of texts: its first row is one"
    return DataError(f"{columns.where}: {what}; remove the row, or name the column, as in {given('body', 'text')}")
