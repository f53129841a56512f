"""What a row says, as looks take it: texts, whatever the form of the row."""

from __future__ import annotations

import itertools
import json
from typing import NamedTuple

from sft.rows.conversation import Conversation, Message


class Turn(NamedTuple):
    """The words of an answer, and of the user's message before it, if it is one."""

    prompt: str | None
    answer: str


class Said(NamedTuple):
    """The texts of a row. A row of plain text has no question."""

    question: str  # all that comes before the last answer
    answer: str  # the last one
    turns: list[Turn]  # every answer that is a target
    text: str  # of all messages


def of_conversation(conversation: Conversation) -> Said:
    """Return what a conversation says."""
    *before, last = conversation.messages
    if len(before) == 1 and before[0].role == "user" and not before[0].keys and not conversation.tools:
        question = before[0].content or ""  # the same question in every form of rows
    else:
        tools = [json.dumps(tool, sort_keys=True, default=str) for tool in conversation.tools]
        question = "\n".join([*(f"{message.role}: {text_of(message)}" for message in before), *tools])
    turns = [
        Turn(earlier.content or "" if earlier.role == "user" else None, message.content)
        for earlier, message in itertools.pairwise(conversation.messages)
        if message.role == "assistant" and message.is_target and message.content
    ]
    text = "\n".join([message.content or "" for message in conversation.messages])
    return Said(question, text_of(last), turns, text)


def of_text(text: str) -> Said:
    """Return what a row of plain text says."""
    return Said("", text, [], text)


def text_of(message: Message) -> str:
    """Return all that a message says, as one text."""
    content = message.content or ""
    return f"{content}\n{json.dumps(dict(message.keys), sort_keys=True, default=str)}" if message.keys else content
