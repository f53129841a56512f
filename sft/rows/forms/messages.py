"""A chat: `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}`.

The conversational format of OpenAI's chat completions, which Hugging Face's chat templates take as it is:
https://huggingface.co/docs/transformers/chat_templating
"""

from __future__ import annotations

from sft.errors import DataError
from sft.rows.conversation import Message, checked_role, checked_text
from sft.rows.files import Row
from sft.settings.fields import Settings


def columns(settings: Settings) -> tuple[str, ...]:
    """Return the column of a chat."""
    return ("messages",)


def convert(row: Row, where: str, settings: Settings) -> list[Message]:
    """Return the messages; other keys of a message are left out."""
    entries = row["messages"]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f'{where}: `messages` is not a list of objects; write [{{"role": …, "content": …}}, …]')
    found = []
    for entry in entries:
        role = checked_role(entry.get("role"), where)
        found.append(Message(role, checked_text(entry.get("content"), where, f"the content of a {role} message")))
    return found
