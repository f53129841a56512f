"""The forms in which a row may hold a conversation, recognised by its columns: one module per form.

To add a form, write a module with the two functions of `Form` and put it into `FORMS`. A text alone holds no
conversation: text.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sft.errors import DataError
from sft.rows.conversation import Conversation, Message
from sft.rows.files import ReadRow, Row
from sft.rows.forms import history, kinds, messages, missing, prompt_response, text, unused
from sft.rows.forms.columns import Columns, given, quoted, without
from sft.rows.forms.segments import Segment
from sft.rows.row_kind import RowKind
from sft.rows.tools import tools_of
from sft.settings.fields import Settings


class Form(Protocol):
    """What the module of a form offers."""

    def used(self, columns: Columns) -> list[str]:
        """Return the filled columns of a row that this form reads; nothing if the row is not of this form."""

    def convert(self, columns: Columns) -> list[Message]:
        """Return the messages of a row of this form, in order. Every message of a DataError begins with its place."""


FORMS: tuple[Form, ...] = (messages, prompt_response)


@dataclass(frozen=True)
class Converted:
    """What was made of a row."""

    conversation: Conversation
    used: tuple[str, ...]  # columns
    unused: tuple[str, ...]  # filled columns


@dataclass(frozen=True)
class ConvertedText:
    """What was made of a row that is a text alone."""

    segments: tuple[Segment, ...]  # nothing if the row has nothing else than white space
    used: tuple[str, ...]  # columns
    unused: tuple[str, ...]  # filled columns

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.segments)


def convert(row: Row | DataError, where: str, settings: Settings) -> Conversation:
    """Return the conversation of a row. Raises DataError for one that could not be read or cannot be used."""
    return converted(row, where, settings).conversation


def converted(row: Row | DataError, where: str, settings: Settings) -> Converted:
    """Return what a row is converted to. Raises DataError for one that could not be read or cannot be used."""
    if isinstance(row, DataError):
        raise row
    columns = Columns.of(row, where, settings)
    if problem := kinds.problem(columns):
        raise problem
    if text.is_text(columns):
        raise text.in_conversations(columns)
    found = forms_of(columns)
    if not found:
        raise refused(columns)
    form, names = next(iter(found.items()))
    conversation = conversation_of(form, columns, settings)
    if len(found) > 1 and not all(is_same(other, columns, settings, conversation) for other in found):
        raise two_forms(list(found.values()), where)
    used = (*names, *columns.all_of("tools"))
    others = unused.unused(columns, used)
    unused.check_named(others, columns, used)
    texts = {message.content.strip() for message in conversation.messages if message.content}
    unused.check_unused(others, columns, texts, settings)
    return Converted(conversation, used, others)


def converted_text(row: Row | DataError, where: str, settings: Settings) -> ConvertedText:
    """Return the text of a row, in a data set of texts. Raises DataError as `converted` does."""
    if isinstance(row, DataError):
        raise row
    columns = Columns.of(row, where, settings)
    if problem := kinds.problem(columns):
        raise problem
    if not text.is_text(columns):
        raise text.no_text(columns, bool(forms_of(columns)))
    found, used = text.convert(columns), tuple(text.used(columns))
    others = unused.unused(columns, used)
    unused.check_named(others, columns, used)
    result = ConvertedText(found, used, others)
    unused.check_unused(others, columns, {result.text.strip()}, settings)
    return result


def kind_of(rows: Iterable[ReadRow], settings: Settings) -> RowKind | None:
    """Return what the first of some rows that holds anything holds; None if none does."""
    for where, row in rows:
        if isinstance(row, DataError):
            continue
        columns = Columns.of(row, where, settings)
        if text.is_text(columns):
            return "texts"
        if forms_of(columns):
            return "conversations"
    return None


def words(row: Row | DataError, where: str, settings: Settings) -> str:
    """Return the words of a row, whatever it holds. Raises DataError for one that cannot be used."""
    if kind_of([(where, row)], settings) == "texts":
        return converted_text(row, where, settings).text
    return "\n".join(message.content or "" for message in convert(row, where, settings).messages)


def check(row: Row | DataError, where: str, settings: Settings, kind: RowKind) -> None:
    """Raise DataError for a row that cannot be used in a data set of a kind."""
    if kind == "texts":
        converted_text(row, where, settings)
    else:
        converted(row, where, settings)


def forms_of(columns: Columns) -> dict[Form, list[str]]:
    """Return the forms that a row has all columns of, with those columns. Columns that the settings name come first."""
    found = {form: used for form in FORMS if (used := form.used(columns))}
    named = set(columns.named.values())
    for form, roles in ((prompt_response, {"prompt", "response"}), (messages, {"messages"})):
        if form in found and roles & named:
            return {form: found[form]}
    return found


def conversation_of(form: Form, columns: Columns, settings: Settings) -> Conversation:
    """Return the conversation that a form finds in a row. Raises DataError."""
    tools = tools_of(columns.row, columns.where, columns.all_of("tools"))
    found = history.with_system(columns, form.convert(columns))
    check_tools_once(found, tools, columns)
    return Conversation.of(found, columns.where, settings.system_prompt, tools)


def check_tools_once(found: list[Message], tools: Sequence[Mapping[str, object]], columns: Columns) -> None:
    """Raise DataError for tools that the system message has too, as in Hermes' rows: a prompt would have them twice."""
    system = next((message.content or "" for message in found if message.role in ("system", "developer")), "")
    names = [function["name"] for tool in tools if isinstance(function := tool["function"], Mapping)]
    written = set(re.findall(r"""["']name["']\s*:\s*["']([^"']+)["']""", system)) if names else set()
    if names and written.issuperset(names):
        name = columns.all_of("tools")[0]
        what = f"the system message has the functions in {quoted([name])} already, so the template would repeat them"
        raise DataError(f"{columns.where}: {what}; leave the column out: {without(name)}")


def is_same(form: Form, columns: Columns, settings: Settings, conversation: Conversation) -> bool:
    """Return whether another form finds the same conversation in a row."""
    try:
        return conversation_of(form, columns, settings) == conversation
    except DataError:  # as for two columns that could both be the response
        return False


def refused(columns: Columns) -> DataError:
    """Return what is wrong with a row of no form: with its messages, if it has that column, or with its prompt."""
    for name in columns.candidates("messages"):
        if columns.row.get(name) is not None:
            try:
                Conversation.of(messages.messages_of(columns.row[name], columns.where, f"`{name}`"), columns.where)
            except DataError as error:
                return error
    return missing.refuse(columns)


def two_forms(found: list[list[str]], where: str) -> DataError:
    """Return the error for a row that holds a conversation twice, in different words."""
    remedy = f"name the one to train: {given(found[0][0], 'messages')} or {given(found[-1][0], 'prompt')}"
    what = f"holds two conversations, in {' and in '.join(map(quoted, found))}, which are not the same"
    return DataError(f"{where}: {what}; {remedy}")
