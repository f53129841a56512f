"""What alpaca rows have beside a prompt and a response: `{"input": "…", "system": "…", "history": [["…", "…"]]}`.

https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md: `input` follows the instruction on a new line, and
`history` holds earlier turns, whose answers are trained too.
"""

from __future__ import annotations

import contextlib
import re

from sft.errors import DataError, shown
from sft.rows import content
from sft.rows.conversation import Message
from sft.rows.forms import messages
from sft.rows.forms.columns import Columns
from sft.rows.values import checked_text, from_text, type_name

EXAMPLE = "write [[question, answer], …]"


def prompt_of(columns: Columns, first: str) -> str:
    """Return the text of a prompt column, and of the inputs below it. Raises DataError."""
    names = [first, *(name for name in columns.all_of("input") if name != first)]
    return "\n".join(checked_text(columns.row[name], columns.where, f"column {name!r}") for name in names)


def with_system(columns: Columns, found: list[Message]) -> list[Message]:
    """Return messages below the system message of a row's own column. Raises DataError for two different ones."""
    if not columns.filled.get("system"):
        return found
    name = columns.one("system")
    text = system_text(columns.row[name], columns.where, f"column {name!r}")
    own = [message.content for message in found if message.is_system and message.says_anything]
    if own and own != [text]:
        raise DataError(f"{columns.where}: has a system message and the column `{shown(name)}` too; leave one of them")
    return found if own else [Message("system", text), *(message for message in found if not message.is_system)]


def system_text(value: object, where: str, what: str) -> str:
    """Return the text of a system message, which Bedrock and Vertex AI write in parts. Raises DataError.

    >>> system_text({"parts": [{"text": "Be brief."}]}, "", "")
    'Be brief.'
    """
    inside = value
    if isinstance(value, str) and re.match(
        r'\s*(\[\s*\{\s*"(text|type)"|\{.*"parts")', value
    ):  # parts, as csv holds them
        with contextlib.suppress(DataError):
            inside = from_text(value, where, what)
    inside = inside.get("parts") if isinstance(inside, dict) and "parts" in inside else inside
    if isinstance(inside, list):
        return "".join(
            content.part_of(part, where, f"part {number} of {what}") for number, part in enumerate(inside, 1)
        )
    return checked_text(inside, where, what)


def history_of(columns: Columns) -> list[Message]:
    """Return the earlier turns of a row: pairs of a question and an answer, or messages. Raises DataError."""
    if not columns.filled.get("history"):
        return []
    name = columns.one("history")
    what, where = f"column {name!r}", columns.where
    turns = from_text(columns.row[name], where, what)
    if not isinstance(turns, list):
        raise DataError(f"{where}: {what} is not a list but {type_name(turns)}; {EXAMPLE}")
    if turns and all(isinstance(turn, dict) for turn in turns):
        return messages.messages_of(turns, where, what)
    found = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, (list, tuple)) or len(turn) != 2:
            raise DataError(f"{where}: turn {number} of {what} is not a pair; {EXAMPLE}")
        asked, answered = (checked_text(text, where, f"turn {number} of {what}") for text in turn)
        found += [Message("user", asked), Message("assistant", answered)]
    return found
