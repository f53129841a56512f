"""What every row becomes, whatever its form: a conversation that ends with an answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

from sft.errors import DataError, shown
from sft.settings.kinds import is_unicode

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Conversation:
    """The messages of a row. The last one is the assistant's, and something precedes the first answer."""

    messages: tuple[Message, ...]

    @classmethod
    def of(cls, messages: list[Message], where: str, system_prompt: str = "") -> Conversation:
        """Return the conversation that a form found in a row, below `system_prompt` unless it has its own.

        What follows the last answer is left out: a question without an answer teaches nothing. Raises DataError for
        messages with nothing to learn from.
        """
        answers = [i for i, message in enumerate(messages) if message.role == "assistant" and message.content]
        if not answers:
            raise DataError(f"{where}: has no assistant message, so no target token; add one or remove the row")
        if answers == [0]:
            raise DataError(f"{where}: nothing comes before the assistant's answer; put a user message first")
        messages = list(messages)
        while messages[-1].role != "assistant":
            messages.pop()
        if system_prompt and messages[0].role != "system":
            messages.insert(0, Message("system", system_prompt))
        return cls(tuple(messages))

    def as_dicts(self) -> list[dict[str, str]]:
        """Return the messages as chat templates take them."""
        return [asdict(message) for message in self.messages]


def checked_role(value: object, where: str) -> Role:
    """Return a role that a row names. Raises DataError for an unknown one."""
    for role in ROLES:
        if value == role:
            return role
    raise DataError(f"{where}: role {shown(repr(value))} is unknown; use {', '.join(ROLES)}")


def checked_text(value: object, where: str, what: str) -> str:
    """Return a text of a row; `what` names it in the error.

    Raises DataError for anything but a string, and for lone surrogates: JSON can escape half a character, and no file
    can hold it.
    """
    if not isinstance(value, str):
        raise DataError(f"{where}: {what} is not text but {type(value).__name__}; write a string")
    if not is_unicode(value):
        raise DataError(f"{where}: {what} holds half a character (a lone surrogate); fix the text")
    return value
