"""Control marks of the model in the texts of a row: counted, and kept from becoming tokens if the user wants that."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from sft.rows.conversation import Conversation, Message
from sft.rows.values import leaves
from sft.trainer.data.chat_template import Refused
from sft.trainer.data.probe import Probe
from sft.trainer.data.prober import any_of
from sft.trainer.data.template_traits import THINK

# Characters that no text has (Unicode sets them aside for programs): they stand around a mark while it is rendered.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
GUARDED = re.compile(f"{OPEN}(.*?){CLOSE}", re.DOTALL)


@dataclass(frozen=True)
class Marked:
    """A row's conversation, in which marks that are to be ordinary text have guards, and what was found in it."""

    conversation: Conversation
    has_marks: bool
    has_template: bool  # it holds the opening of a whole turn


@dataclass(frozen=True)
class Marks:
    """What to look for in the texts of rows."""

    pattern: re.Pattern[str]
    turns: tuple[str, ...]
    guards: bool

    @classmethod
    def of_model(cls, probe: Probe, guards: bool) -> Marks:
        """Return the marks of a model: its special tokens, but for those around reasoning, which rows may have."""
        of_reasoning = {text.strip() for text in (*THINK, probe.thinking.opener, probe.thinking.closer)}
        special = special_tokens(probe.tokenizer) - of_reasoning
        return cls(any_of(text for text in special if text.strip()), probe.turn_marks, guards)

    def find(self, conversation: Conversation) -> Marked:
        """Look through the texts of a conversation. Raises Refused."""
        texts = [text for message in conversation.messages for text in texts_of(message)]
        if any(guard in text for text in texts for guard in (OPEN, CLOSE)):
            what = "a text holds the character U+FDD0 or U+FDD1, which Unicode sets aside for programs"
            raise Refused(what, "remove the character")
        has_marks = any(self.pattern.search(text) for text in texts)
        has_template = any(turn in text for text in texts for turn in self.turns)
        if has_marks and self.guards:
            messages = tuple(guarded(message, self.guard) for message in conversation.messages)
            conversation = replace(conversation, messages=messages)
        return Marked(conversation, has_marks, has_template)

    def check(self, texts: Iterable[str]) -> None:
        """Raise Refused if the template has changed the guards in a row's rendered texts: they would be trained."""
        if self.guards and any(json.dumps(OPEN)[1:-1] in text for text in texts):
            what = "it escapes characters, so the model's marks in a text cannot be kept apart"
            raise Refused(what, "set SPECIAL_TOKENS_IN_TEXT=parse, or CHAT_TEMPLATE to another one")

    def guard(self, text: str) -> str:
        """Put guards around every mark in a text."""
        return self.pattern.sub(lambda mark: OPEN + mark[0] + CLOSE, text)


def special_tokens(tokenizer: Any) -> set[str]:
    """Return the texts of a tokenizer's special tokens."""
    added = tokenizer.added_tokens_decoder.values()
    return {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)


def texts_of(message: Message) -> list[str]:
    """Return the texts of a message, those in its keys too."""
    return [message.content or "", *leaves(dict(message.keys))]


def guarded(message: Message, guard: Callable[[str], str]) -> Message:
    """Return a message with guards in all its texts."""
    content = None if message.content is None else guard(message.content)
    keys = mapped(dict(message.keys), guard)
    assert isinstance(keys, dict)
    return replace(message, content=content, keys=keys)


def mapped(value: object, change: Callable[[str], str]) -> object:
    """Return a JSON value with every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: mapped(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [mapped(inner, change) for inner in value]
    return value
