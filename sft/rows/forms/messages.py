"""A chat: `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}`.

The conversational format of OpenAI's chat completions, which Hugging Face's chat templates take as it is:
https://huggingface.co/docs/transformers/chat_templating
"""

from __future__ import annotations

from sft.errors import DataError, shown
from sft.rows.content import text_of
from sft.rows.conversation import REASONING, Message, Role, checked_role
from sft.rows.forms import sharegpt, turns
from sft.rows.forms.columns import Columns, given, without
from sft.rows.forms.columns import quoted as quoted_names
from sft.rows.tools import calls_of
from sft.rows.values import checked_json, checked_list, checked_text, from_text, is_filled, quoted

# OpenAI's, axolotl's (two), ms-swift's and Tinker's key for an answer that is context only
MARKS = ("weight", "train", "training", "loss", "trainable")
OWN = ("role", "content", *MARKS)  # the keys that Message has fields for
EXAMPLE = '[{"role": …, "content": …}, …]'


def used(columns: Columns) -> list[str]:
    """Return the columns of a chat."""
    return columns.all_of("messages", "system") if columns.filled.get("messages") else []


def convert(columns: Columns) -> list[Message]:
    """Return the messages."""
    name = columns.one("messages")
    found = messages_of(columns.row[name], columns.where, f"`{shown(name)}`")
    if found and found[-1].role != "assistant" and (responses := columns.all_of("response")):
        what = f"`{shown(name)}` ends with a question, and {quoted_names(responses[:1])} could be the answer to it"
        raise DataError(f"{columns.where}: {what}; set {given(name, 'prompt')} to train it, or {without(responses[0])}")
    return found


def messages_of(value: object, where: str, what: str) -> list[Message]:
    """Return the messages in a list, which may be text that holds JSON, as in a csv file. Raises DataError."""
    entries = checked_list(turns.as_messages(from_text(value, where, what), where, what), where, what, EXAMPLE)
    numbered = ((entry, f"{where}: message {number}") for number, entry in enumerate(entries, 1))
    return [message_of(sharegpt.as_openai(entry, where), where) for entry, where in numbered]


def message_of(entry: dict[str, object], where: str) -> Message:
    """Return a message with all its filled keys. Raises DataError."""
    role = checked_role(entry.get("role"), where)
    keys = {}
    for key, value in entry.items():
        if key not in OWN and is_filled(value):
            keys.update(key_of(key, value, role, where))
    check_one_of_each(entry, where)
    message = Message(role, text_of(entry.get("content"), where), is_target(entry, role, where), keys)
    if message.content is None and not message.is_answer:
        what = "`content` is null or missing, which only an answer with tool calls or reasoning can do without"
        raise DataError(f"{where}: {what}; write a string")
    return message


def check_one_of_each(entry: dict[str, object], where: str) -> None:
    """Raise DataError for calls or reasoning under two keys that do not say the same: one would be lost."""
    for names in (("tool_calls", "function_call"), REASONING):
        filled = [name for name in names if is_filled(entry.get(name))]
        if any(entry[name] != entry[filled[0]] for name in filled):
            both = " and ".join(f"`{name}`" for name in filled)
            raise DataError(f"{where}: {both} say different things; leave one of them")


def key_of(key: str, value: object, role: Role, where: str) -> dict[str, object]:
    """Return a filled key as templates take it. Raises DataError for one that only the assistant can have."""
    checked_json(key, where, "a key")
    what = f"`{shown(key)}`"
    if role != "assistant" and (key in ("tool_calls", "function_call") or key in REASONING):
        raise DataError(f"{where}: has {what} though its role is {role}; only an assistant message can have it")
    if key == "tool_calls":
        return {key: calls_of(value, where)}
    if key == "function_call":  # OpenAI's older form, of one call
        return {"tool_calls": calls_of([value], where)}
    if key in REASONING or key == "name":
        return {key: checked_text(value, where, what)}
    return {key: checked_json(value, where, what)}


def is_target(entry: dict[str, object], role: Role, where: str) -> bool:
    """Return whether a message, if it is an answer, is trained. Raises DataError."""
    marks = {key: mark_of(entry[key], where, key) for key in MARKS if entry.get(key) is not None}
    if len(set(marks.values())) > 1:
        names = " and ".join(f"`{key}`" for key in marks)
        raise DataError(f"{where}: {names} contradict each other; leave one of them")
    if role != "assistant" and True in marks.values():
        remedy = "remove the key or set it to 0"
        raise DataError(f"{where}: `{next(iter(marks))}` is to train the role {role}; only answers are; {remedy}")
    return False not in marks.values()


def mark_of(value: object, where: str, key: str) -> bool:
    """Return what a mark says. Raises DataError for a weight between 0 and 1, or beyond."""
    if not isinstance(value, (bool, int, float)) or value not in (0, 1):
        what = f"`{key}` is {quoted(value)}, and an answer is trained or not, nothing between"
        raise DataError(f"{where}: {what}; write 1, or 0 for an answer that is context only")
    return bool(value)
