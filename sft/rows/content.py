"""The content of a message: text, or a list of parts such as `[{"type": "text", "text": "…"}]`.

https://platform.openai.com/docs/api-reference/chat/create has the parts; those that are not text are refused by name.
"""

from __future__ import annotations

from sft.errors import DataError
from sft.rows.values import check_keys, checked_text, is_filled, quoted

TEXT = ("text", "input_text", "output_text")  # types of parts that are text
REMEDIES = {
    "thinking": "put it into the message's key `reasoning_content`",
    "reasoning": "put it into the message's key `reasoning_content`",
    "tool_use": "put it into the message's key `tool_calls`",
    "tool_call": "put it into the message's key `tool_calls`",
    "tool_result": "write a message with the role tool",
    "refusal": "write it as text",
    "functionCall": "put it into the message's key `tool_calls`",
    "function_call": "put it into the message's key `tool_calls`",
    "functionResponse": "write a message with the role tool",
    "function_response": "write a message with the role tool",
}
OTHERS = "only text is trained: remove it, or the row"


def text_of(content: object, where: str) -> str | None:
    """Return the text of a message's content, its parts joined as they are; None for null. Raises DataError."""
    if content is None:
        return None
    if not isinstance(content, list):
        return checked_text(content, where, "`content`")
    return "".join(part_of(part, where, f"part {number} of `content`") for number, part in enumerate(content, 1))


def part_of(part: object, where: str, what: str) -> str:
    """Return the text of a part. Raises DataError."""
    if not isinstance(part, dict):
        return checked_text(part, where, what)
    kind = part.get("type")
    if kind is None and "text" not in part:
        kind = next((key for key, value in part.items() if is_filled(value)), None)
    if kind is not None and kind not in TEXT:
        remedy = REMEDIES.get(str(kind), OTHERS)
        raise DataError(f"{where}: {what} is of type {quoted(kind)}; {remedy}")
    check_keys(part, ("type", "text"), where, what)
    return checked_text(part.get("text"), where, f"the text in {what}")
