"""Conversations of a row's shape with words that nothing else has.

Whether a template leaves out a message cannot be seen from the row's own words if they stand elsewhere too: a system
message that is repeated, "yes" for the third time, a call of the same function with other numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from sft.rows.conversation import REASONING, Conversation, Message
from sft.trainer.data.answers import render
from sft.trainer.data.chat_template import Refused
from sft.trainer.data.probe import Probe
from sft.trainer.data.prober import FUNCTION, TOOL
from sft.trainer.data.template_traits import THINK

MOST_SHAPES = 10_000  # that are kept


@dataclass(frozen=True)
class Piece:
    """A word that stands for a part of a message."""

    word: str
    message: int  # its number
    what: Literal["words", "call"]
    call: int = 0  # its number in the message


class StandIns:
    """What a template leaves out of conversations, tried once for each shape of them."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.known: dict[str, list[Piece]] = {}

    def check(self, conversation: Conversation) -> None:
        """Raise Refused if the template leaves out a message or a call in a conversation of this shape."""
        stand_in, pieces = of(conversation)
        shape = repr((stand_in.as_dicts(), bool(stand_in.tools)))
        if shape not in self.known:
            if len(self.known) >= MOST_SHAPES:
                self.known.clear()
            self.known[shape] = list(self.lost(stand_in, pieces))
        for piece in self.known[shape]:
            what = f"call {piece.call + 1} of" if piece.what == "call" else "the words of"
            role = conversation.messages[piece.message].role
            raise Refused(f"it leaves out {what} message {piece.message + 1} (role {role})")

    def lost(self, conversation: Conversation, pieces: list[Piece]) -> Iterator[Piece]:
        """Yield the pieces that a template does not write; nothing if it takes no such words."""
        messages = conversation.messages
        try:
            # Some write the system message only if the last message is the user's: in the prompt.
            text = render(messages, conversation, self.probe) + render(messages[:-1], conversation, self.probe, True)
            for piece in pieces:
                if piece.word in text:
                    continue
                # Some leave out the words beside an earlier call: these are trained in a sequence of their own.
                number = piece.message
                is_trained = messages[number].is_answer and messages[number].is_target and number
                if not is_trained or piece.word not in render(messages[: number + 1], conversation, self.probe):
                    yield piece
        except Refused:  # of the row's own words it had nothing against
            return


def of(conversation: Conversation) -> tuple[Conversation, list[Piece]]:
    """Return a conversation of the same shape, and the words in it."""
    pieces: list[Piece] = []
    ids: dict[object, str] = {}

    def word(message: int, what: Literal["words", "call"], call: int = 0) -> str:
        pieces.append(Piece(f"zq{len(pieces)}wordqz", message, what, call))
        return pieces[-1].word

    def call_id(written: object) -> str:
        return ids.setdefault(written, f"c{len(ids):08}")  # Mistral's templates take nine letters and digits only

    messages = []
    for number, message in enumerate(conversation.messages):
        keys: dict[str, object] = {}
        calls = message.keys.get("tool_calls")
        for key in message.keys:
            if key in REASONING:
                keys[key] = "zqreasonqz"
            elif key == "tool_call_id":
                keys[key] = call_id(str(message.keys[key]))
            elif key == "name":
                keys[key] = FUNCTION
        content = message.content
        if content is not None and content.strip():
            content = opening(message) + word(number, "words")
        if isinstance(calls, list):
            keys["tool_calls"] = [
                {
                    **({"id": call_id(str(call["id"]))} if "id" in call else {}),
                    "type": "function",
                    "function": {"name": FUNCTION, "arguments": {"town": word(number, "call", place)}},
                }
                for place, call in enumerate(calls)
            ]
        messages.append(replace(message, content=content, keys=keys))
    return replace(conversation, messages=tuple(messages), tools=(TOOL,) if conversation.tools else ()), pieces


def opening(message: Message) -> str:
    """Return the reasoning in the content of a message, in made-up words."""
    if message.role != "assistant" or message.reasoning or not message.split()[0].strip():
        return THINK[0].strip() if message.has_open_reasoning else ""
    return f"{THINK[0]}zqreasonqz{THINK[1]}"
