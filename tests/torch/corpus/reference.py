"""How a template writes a conversation, and what must be found in it: computed without the code that is tested."""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from tests.torch.corpus.families import Family
from tests.torch.corpus.kinds import Message, Row

PINNED = datetime(2024, 7, 26)  # the date that every template is given
THINK = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)


@dataclass(frozen=True)
class Model:
    """A template with a tokenizer that has its marks."""

    name: str
    template: str
    family: Family
    tokenizer: PreTrainedTokenizerBase
    known: dict[str, list[int]] = field(default_factory=dict)  # texts that were tokenised before

    def ids(self, text: str) -> list[int]:
        """Tokenise a text as a whole."""
        if text not in self.known:
            self.known[text] = list(self.tokenizer(text, add_special_tokens=False).input_ids)
        return self.known[text]

    def ids_of(self, marks: Iterable[str]) -> list[int]:
        """Return the token of each mark."""
        ids: Any = self.tokenizer.convert_tokens_to_ids(list(marks))
        return list(ids)

    def text(self, ids: list[int]) -> str:
        """Return the text of tokens, special ones included."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@dataclass(frozen=True)
class Piece:
    """Words of a message that no other message has."""

    text: str
    what: str  # content, reasoning, call or tools
    message: int  # its number; -1: the tools


@dataclass
class Written:
    """A conversation as the template writes it, in one of the forms in which it may be handed to the template."""

    messages: list[Message]
    tools: list[object]
    is_usual: bool = True  # nothing is wrong with refusing the others
    errors: list[str] = field(default_factory=list)  # what the template raised, the whole conversation's first
    texts: dict[int, str] = field(default_factory=dict)  # up to each answer
    prompts: dict[int, str] = field(default_factory=dict)  # before each answer, with the generation prompt


@contextmanager
def clock(day: datetime) -> Iterator[None]:
    """Let templates see another date."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return day

    with patch.object(chat_template_utils, "datetime", Clock):
        yield


def days_later(days: int) -> datetime:
    """Return today's date and time, some days later."""
    return datetime.now() + timedelta(days=days)


def render(model: Model, messages: list[Message], tools: list[object], prompt: bool) -> str:
    """Return the text of a conversation. Raises whatever the template raises."""
    arguments: dict[str, Any] = {"tools": tools or None, "date_string": PINNED.strftime("%d %b %Y")}
    chats: list[Any] = messages
    return str(
        model.tokenizer.apply_chat_template(
            chats, chat_template=model.template, tokenize=False, add_generation_prompt=prompt, **arguments
        )
    )


def pieces_of(messages: list[Message], tools: list[object]) -> list[Piece]:
    """Return the words of every message and of the tools."""
    found: list[Piece] = []
    for number, message in enumerate(messages):
        content = message.get("content")
        thought = THINK.match(content) if isinstance(content, str) and message["role"] == "assistant" else None
        if thought:
            found.append(Piece(thought[1].strip(), "reasoning", number))
            content = thought[2]
        for key in ("reasoning_content", "thinking"):
            if message.get(key):
                found.append(Piece(str(message[key]).strip(), "reasoning", number))
        if isinstance(content, str) and content.strip():
            found.append(Piece(content.strip(), "content", number))
        for made in message.get("tool_calls", []):  # type: ignore[attr-defined]
            arguments = made["function"]["arguments"]
            values = json.loads(arguments) if isinstance(arguments, str) else arguments
            found += [Piece(text, "call", number) for text in (made["function"]["name"], *values.values())]
    return found + [Piece(str(tool["function"]["description"]), "tools", -1) for tool in tools]  # type: ignore[index]


def forms_of(messages: list[Message], moved: bool) -> Iterator[list[Message]]:
    """Yield the forms in which the same conversation may be handed to a template.

    `moved`: reasoning may move between the content and its key, and content may be a list of parts.
    """
    alternatives = []
    changes = (other_arguments, other_null, *([other_thinking] if moved else []))
    if moved:
        yield [in_parts(message) for message in messages]
    for message in messages:
        forms = [message]
        for change in changes:
            forms += [changed for form in forms for changed in change(form)]
        alternatives.append(forms)
    same_length = max(map(len, alternatives))
    if same_length > 4:  # one form for all messages that have it
        padded = [[forms[min(k, len(forms) - 1)] for k in range(same_length)] for forms in alternatives]
        yield from (copy.deepcopy(list(form)) for form in zip(*padded, strict=True))
    else:
        yield from (copy.deepcopy(list(form)) for form in itertools.product(*alternatives))


def in_parts(message: Message) -> Message:
    """Content is a list of parts, as templates of models for pictures take it."""
    text = message.get("content")
    return {**message, "content": [{"type": "text", "text": text}]} if isinstance(text, str) else message


def other_arguments(message: Message) -> Iterator[Message]:
    """A call's arguments are an object or its JSON."""
    if message.get("tool_calls"):
        other = copy.deepcopy(message)
        for made in other["tool_calls"]:  # type: ignore[attr-defined]
            given = made["function"]["arguments"]
            made["function"]["arguments"] = json.loads(given) if isinstance(given, str) else json.dumps(given)
        yield other


def other_null(message: Message) -> Iterator[Message]:
    """No content is None, nothing at all or an empty text."""
    if message.get("content") is None:
        yield {**message, "content": ""}
        yield {key: value for key, value in message.items() if key != "content"}


def other_thinking(message: Message) -> Iterator[Message]:
    """Reasoning in the content may be given in its own key, and the other way round."""
    content = message.get("content")
    if message["role"] != "assistant" or not isinstance(content, str):
        return
    if thought := THINK.match(content):
        yield {**message, "reasoning_content": thought[1].strip(), "content": thought[2].strip()}
    keys = [key for key in ("reasoning_content", "thinking") if message.get(key)]
    if keys:
        rest = {key: value for key, value in message.items() if key not in keys}
        yield {**rest, "content": f"<think>\n{message[keys[0]]}\n</think>\n\n{content}"}


def answers_of(messages: list[Message]) -> list[int]:
    """Return the numbers of the messages that are targets."""
    return [
        number for number, message in enumerate(messages) if number and says(message) and message.get("weight") != 0
    ]


def says(message: Message) -> bool:
    """Whether a message is an answer: words, calls or reasoning of the assistant."""
    filled = message.get("tool_calls") or message.get("reasoning_content") or message.get("thinking")
    return message["role"] == "assistant" and bool(filled or str(message.get("content") or "").strip())


def conversation(row: Row, settings: Mapping[str, object]) -> tuple[list[Message], list[object]]:
    """Return the messages of a row up to its last answer, and its tools."""
    messages: list[Message] = list(row["messages"])  # type: ignore[call-overload]
    if settings.get("system_prompt") and all(message["role"] != "system" for message in messages):
        messages.insert(0, {"role": "system", "content": settings["system_prompt"]})
    answers = answers_of(messages)
    return messages[: answers[-1] + 1] if answers else messages, list(row.get("tools", []))  # type: ignore[call-overload]


def written(model: Model, messages: list[Message], tools: list[object]) -> list[Written]:
    """Return the conversation in every form, as the template writes it or with what it raises."""
    found = []
    usual = list(forms_of(messages, moved=False))
    for form in usual + [form for form in forms_of(messages, moved=True) if form not in usual]:
        one = Written(form, tools, is_usual=form in usual)
        for number in reversed(answers_of(messages)):
            for found_texts, end, prompt in ((one.texts, number + 1, False), (one.prompts, number, True)):
                try:
                    found_texts[number] = render(model, form[:end], tools, prompt)
                except Exception as error:  # a template may raise anything
                    one.errors.append(str(error) or type(error).__name__)
        found.append(one)
    return found
