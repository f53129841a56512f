"""The forms in which a row may hold a conversation: one module per form.

To add a form, write a module with the two functions of `Form` and put it into `FORMS`.
"""

from __future__ import annotations

from typing import Protocol

from sft.errors import DataError
from sft.rows.conversation import Conversation, Message
from sft.rows.files import Row
from sft.rows.forms import messages, prompt_response
from sft.rows.tools import tools_of
from sft.settings.fields import Settings


class Form(Protocol):
    """What the module of a form offers."""

    def columns(self, settings: Settings) -> tuple[str, ...]:
        """Return the columns by which a row of this form is recognised: it has them all, and none is null."""

    def convert(self, row: Row, where: str, settings: Settings) -> list[Message]:
        """Return the messages of a row of this form, in order.

        `where` is the row's place ("train.jsonl:7"), with which every message of a DataError begins.
        """


# The first form whose columns a row has converts it. A row of no form is left to the last one, whose columns are
# settings: it says which of them is missing.
FORMS: tuple[Form, ...] = (messages, prompt_response)


def form_of(row: Row, settings: Settings) -> Form:
    """Return the form of a row."""
    for form in FORMS:
        if all(row.get(column) is not None for column in form.columns(settings)):
            return form
    return FORMS[-1]


def convert(row: Row | DataError, where: str, settings: Settings) -> Conversation:
    """Return the conversation of a row. Raises DataError for one that could not be read or cannot be used."""
    if isinstance(row, DataError):
        raise row
    found = form_of(row, settings).convert(row, where, settings)
    return Conversation.of(found, where, settings.system_prompt, tools_of(row, where))
