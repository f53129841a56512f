"""What every row becomes, whatever its form: a conversation that ends with an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from sft.errors import DataError
from sft.rows.values import quoted

Role = Literal["system", "developer", "user", "assistant", "tool", "function", "ipython"]
ROLES: tuple[Role, ...] = get_args(Role)
THINK = (
    "<think>",
    "</think>",
)  # around reasoning in the content: the form of DeepSeek R1, which most others have taken
REASONING = ("reasoning_content", "reasoning", "thinking")  # the keys in which data sets keep it, as text


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str | None  # None only in an assistant message with tool calls or reasoning
    is_target: bool = True  # of an assistant message: whether it is trained, or context only
    # Every other filled key of the message, in the row's order: tool_calls, tool_call_id, name, reasoning_content, …
    keys: Mapping[str, object] = field(default_factory=dict)

    @property
    def says_anything(self) -> bool:
        """Whether it has more than its role and white space."""
        return bool(self.content and self.content.strip()) or bool(self.keys)

    @property
    def is_system(self) -> bool:
        """Whether it instructs the assistant; OpenAI's newer models call that role developer."""
        return self.role in ("system", "developer")

    @property
    def is_answer(self) -> bool:
        """Whether the assistant says anything in it: words, tool calls or reasoning."""
        says = bool(self.content and self.content.strip()) or bool(self.keys.get("tool_calls")) or bool(self.reasoning)
        return self.role == "assistant" and says

    @property
    def reasoning(self) -> str:
        """The text of the key for reasoning, or ""."""
        if not self.keys:  # as in most messages, of which there may be millions
            return ""
        texts = (self.keys.get(key) for key in REASONING)
        return next((text for text in texts if isinstance(text, str) and text.strip()), "")

    def split(self) -> tuple[str, str]:
        """Return its reasoning, from a key or from <think>…</think> in the content, and its words."""
        content = self.content or ""
        before, mark, words = content.partition(THINK[1])
        before = before.lstrip()
        is_late = THINK[0] in before and not before.startswith(THINK[0])  # behind words: templates read it otherwise
        if not mark or self.reasoning or is_late:
            return self.reasoning, content
        return before.removeprefix(THINK[0]), words

    @property
    def has_open_reasoning(self) -> bool:
        """Whether it begins with reasoning in the content that is never closed: the answer was cut within it."""
        content = self.content or ""
        return self.role == "assistant" and content.lstrip().startswith(THINK[0]) and THINK[1] not in content

    def as_dict(self) -> dict[str, object]:
        """Return the message as chat templates take it."""
        return {"role": self.role, "content": self.content, **self.keys}


@dataclass(frozen=True)
class Conversation:
    """The messages of a row. The last one is an answer that is a target, and something precedes it."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, object], ...] = ()  # JSON schemas of the functions that the assistant may call
    left_out: int = field(default=0, compare=False)  # messages of the row that follow the last target

    @classmethod
    def of(
        cls,
        messages: list[Message],
        where: str,
        system_prompt: str = "",
        tools: tuple[Mapping[str, object], ...] = (),
    ) -> Conversation:
        """Return the conversation that a form found in a row, below `system_prompt` if it has none of its own.

        What follows the last target is left out: a question without an answer teaches nothing. An answer that nothing
        precedes, a greeting, is context. Raises DataError for messages with nothing to learn from.
        """
        messages = list(messages)
        last = max((i for i, message in enumerate(messages) if message.is_answer), default=0)
        if system_prompt and not any(message.is_system and message.says_anything for message in messages[:last]):
            # An empty system message, as exporters put before every chat, is none of the row's own.
            messages = [Message("system", system_prompt), *(message for message in messages if not message.is_system)]
        answers = [i for i, message in enumerate(messages) if message.is_answer]
        if not answers:
            raise DataError(f"{where}: has no assistant message, so no target token; add one or remove the row")
        if answers == [0]:
            raise DataError(f"{where}: nothing comes before the assistant's answer; put a user message first")
        targets = [i for i in answers if i > 0 and messages[i].is_target]
        if not targets:
            what = "no answer is a target: `weight`, `train` or `loss` makes each of them context"
            raise DataError(f"{where}: {what}; make one a target or remove the row")
        if answers[0] == 0:
            messages[0] = replace(messages[0], is_target=False)
        end = targets[-1] + 1
        return cls(tuple(messages[:end]), tools, len(messages) - end)

    def as_dicts(self) -> list[dict[str, object]]:
        """Return the messages as chat templates take them."""
        return [message.as_dict() for message in self.messages]


def checked_role(value: object, where: str) -> Role:
    """Return a role that a row names. Raises DataError for an unknown one."""
    for role in ROLES:
        if value == role:
            return role
    if value is None:
        raise DataError(f"{where}: has no `role`; write one of {', '.join(ROLES)}")
    raise DataError(f"{where}: role {quoted(value)} is unknown; use {', '.join(ROLES)}")
