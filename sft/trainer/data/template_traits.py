"""What chat templates do differently: how they end answers, write reasoning, and take the parts of a message."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sft.rows.conversation import Message

# How a block of reasoning begins and ends if the template does not write it itself.
THINK = ("<think>\n", "\n</think>\n\n")


@dataclass(frozen=True)
class Ending:
    """How a template ends an answer."""

    mark: str  # the text of the token that ends it
    is_appended: bool = False  # the template does not write it if the answer is the last message
    repeats: int = 1  # how many of the mark the template writes behind the last answer; the first one counts
    dropped: str = ""  # if it is appended: what the template writes after the last answer, which is no token
    added: str = ""  # what comes instead, up to and with the mark


@dataclass(frozen=True)
class Forms:
    """In which of the usual forms a template takes the parts of a message."""

    content_as_parts: bool = False  # a list of objects with text, not a string
    empty_content: bool = False  # "" instead of leaving `content` out, if there is none
    arguments_as_text: bool = False  # a call's arguments as JSON text, not an object
    moves_reasoning: bool = False  # what stands in the content as <think>…</think> has to be given in the key for it

    def message(self, message: Message) -> dict[str, object]:
        """Return a message as the template takes it."""
        found: dict[str, object] = {"role": message.role}
        if message.content is not None:
            found["content"] = [{"type": "text", "text": message.content}] if self.content_as_parts else message.content
        elif self.empty_content or not message.keys.get(
            "tool_calls"
        ):  # nearly every template reads it beside reasoning
            found["content"] = ""
        if not message.keys and not self.moves_reasoning:
            return found
        found |= message.keys
        reasoning, words = message.split()
        if reasoning and self.moves_reasoning and not message.reasoning:
            moved = replace(message, content=words.lstrip("\n"), keys={"reasoning_content": reasoning.strip("\n")})
            return found | replace(self, moves_reasoning=False).message(moved)
        if message.reasoning:
            # Templates read one name or the other; newer versions of transformers give them both too.
            found |= {"reasoning_content": reasoning, "thinking": reasoning}
        if self.arguments_as_text and isinstance(calls := message.keys.get("tool_calls"), list):
            found["tool_calls"] = [with_text_arguments(call) for call in calls]
        return found


def with_text_arguments(call: Mapping[str, Any]) -> dict[str, object]:
    """Return a tool call with its arguments as JSON text."""
    function = dict(call["function"])
    if not isinstance(function.get("arguments"), str):
        function["arguments"] = json.dumps(function.get("arguments", {}), ensure_ascii=False)
    return dict(call) | {"function": function}


@dataclass(frozen=True)
class Thinking:
    """How a template writes reasoning, and what its generation prompt does about it."""

    closer: str  # text between an answer's reasoning and its words
    ending: str  # the part of it that ends the reasoning, without what every answer's words begin with
    opener: str  # the mark before the reasoning, without white space
    reads_key: bool  # it writes the reasoning that a message has in a key of its own
    keeps_content: bool  # it writes the reasoning that stands in the content, as <think>…</think>
    only_from_key: bool  # it writes that one in another way, which is not the model's
    prompt_opens: bool  # the generation prompt ends within a block of reasoning
    prompt_closes: bool  # the generation prompt ends after an empty block
    start: str  # what an answer with reasoning begins with behind the generation prompt, if it is known
