"""The kinds of conversations that every template is tried with. Every text holds words that nothing else holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

Row = dict[str, object]
Message = dict[str, object]

ARGUMENTS: dict[str, object] = {"city": "Quarvella"}
TOOL: dict[str, object] = {
    "type": "function",
    "function": {
        "name": "get_zephyrcast",
        "description": "Tells the brumblesky.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "A plovertown."}},
            "required": ["city"],
        },
    },
}


@dataclass(frozen=True)
class Kind:
    """A conversation that a template may have to write."""

    name: str
    row: Callable[[str, str], Row]  # from the text of EOS and of an end mark
    settings: dict[str, object] = field(default_factory=dict)
    refused: str = ""  # what every template's refusal says, if the row itself holds nothing to learn
    days: int = 0  # later that the same row is prepared


def user(number: int = 1) -> Message:
    """Return a question."""
    return {"role": "user", "content": f"Does ulmara{number} grow ulvane{number}?"}


ANSWER = "Yes: anselo1 and arvido1."


def answer(number: int = 1) -> Message:
    """Return an answer."""
    return {"role": "assistant", "content": f"Yes: anselo{number} and arvido{number}."}


def call(text: str | None, arguments: object) -> Message:
    """Return an answer that calls the tool."""
    function = {"name": "get_zephyrcast", "arguments": arguments}
    return {
        "role": "assistant",
        "content": text,
        "tool_calls": [{"id": "call0tal1", "type": "function", "function": function}],
    }


def result() -> Message:
    """Return what the tool says."""
    return {"role": "tool", "tool_call_id": "call0tal1", "name": "get_zephyrcast", "content": "It is tornelwet."}


SYSTEM: Message = {"role": "system", "content": "Write like sylvarno."}


def chat(*messages: Message, **columns: object) -> Callable[[str, str], Row]:
    """Return a row that is the same for every template."""
    return lambda eos, end: {"messages": list(messages), **columns}


def holding(which: str) -> Callable[[str, str], Row]:
    """Return a row whose answer holds a mark in its middle."""

    def row(eos: str, end: str) -> Row:
        mark = eos if which == "eos" else end
        return {"messages": [user(), {"role": "assistant", "content": f"The mark anselo1 {mark} is arvido1."}]}

    return row


def thinking(number: int = 1) -> Message:
    """Return an answer whose reasoning stands in its content."""
    content = f"<think>\nHm, rhovane{number}.\n</think>\n\nYes: anselo{number} and arvido{number}."
    return {"role": "assistant", "content": content}


def reasoning(key: str, number: int = 1) -> Message:
    """Return an answer whose reasoning stands in a key of its own."""
    return {**answer(number), key: f"Hm, rhovane{number}."}


NO_ANSWER = "`content` is null or missing"

KINDS = (
    Kind("one answer", chat(user(), answer())),
    Kind("system", chat(SYSTEM, user(), answer())),
    Kind("SYSTEM_PROMPT", chat(user(), answer()), {"system_prompt": "Write like sylvarno."}),
    Kind("three answers", chat(user(1), answer(1), user(2), answer(2), user(3), answer(3))),
    Kind("think in content", chat(user(), thinking())),
    Kind("think in content, twice", chat(user(1), thinking(1), user(2), thinking(2))),
    Kind("reasoning_content", chat(user(), reasoning("reasoning_content"))),
    Kind("thinking", chat(user(), reasoning("thinking"))),
    Kind("reasoning_content, twice", chat(
        user(1), reasoning("reasoning_content", 1), user(2), reasoning("reasoning_content", 2))),
    Kind("tools", chat(user(), answer(), tools=[TOOL])),
    Kind("call, text", chat(
        user(), call("Let me ask anselo0.", json.dumps(ARGUMENTS)), result(), answer(), tools=[TOOL])),
    Kind("call, null", chat(user(), call(None, ARGUMENTS), result(), answer(), tools=[TOOL])),
    Kind("call is the answer", chat(user(), call(None, json.dumps(ARGUMENTS)), tools=[TOOL])),
    Kind("null content", chat(user(), {"role": "assistant", "content": None}), refused=NO_ANSWER),
    Kind("white space", chat(
        {"role": "user", "content": " \n Does ulmara1 grow ulvane1? \n"},
        {"role": "assistant", "content": "\n  Yes: anselo1 and arvido1. \n\n"})),
    Kind("EOS in the answer", holding("eos")),
    Kind("end mark in the answer", holding("end")),
    Kind("two users", chat(user(1), user(2), answer())),
    Kind("two answers", chat(user(), answer(1), answer(2))),
    Kind("last is the user's", chat(user(1), answer(1), user(2))),
    Kind("last is empty", chat(user(1), answer(1), user(2), {"role": "assistant", "content": ""})),
    Kind("another day", chat(user(), answer()), days=1),
)  # fmt: skip
