"""Messages as ShareGPT has them: `{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}`.

The names of the keys and of the roles are those of LLaMA-Factory, axolotl, ms-swift, NeMo, Cohere and Vertex AI:
https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md
https://docs.axolotl.ai/docs/dataset-formats/conversation.html
https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html
https://docs.nvidia.com/nemo-framework/user-guide/latest/modelalignment/sft.html
https://docs.cohere.com/docs/chat-preparing-the-data
https://cloud.google.com/vertex-ai/generative-ai/docs/models/gemini-supervised-tuning-prepare
"""

from __future__ import annotations

from sft.errors import DataError, shown
from sft.rows.conversation import ROLES as CONVERSATION_ROLES
from sft.rows.values import is_filled

KEYS = {"from": "role", "value": "content"}
# These are read so only in messages that have none of the names above.
LESS_USUAL = {"speaker": "role", "author": "role", "parts": "content", "text": "content"}
ROLES = {
    "human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "bot": "assistant", "chatbot": "assistant", "model": "assistant", "ai": "assistant",
    "observation": "tool", "function_response": "tool", "tool_response": "tool",
}  # fmt: skip
CALLS = ("function_call", "tool_call")  # roles of a message whose content is a call, or a list of calls, as JSON
SPEAKERS = {"role", *(key for key, name in (KEYS | LESS_USUAL).items() if name == "role")}
WORDS = {"content", "tool_calls", "function_call"}
WORDS |= {key for key, name in (KEYS | LESS_USUAL).items() if name == "content"}
KNOWN_ROLES = {*CONVERSATION_ROLES, *ROLES, *CALLS}


def as_openai(entry: dict[str, object], where: str) -> dict[str, object]:
    """Return a message with the keys and roles of OpenAI's form. Raises DataError.

    >>> as_openai({"from": "human", "value": "Hi"}, "")
    {'role': 'user', 'content': 'Hi'}
    """
    for key, other in KEYS.items():
        if is_filled(entry.get(key)) and is_filled(entry.get(other)):
            raise DataError(f"{where}: has both `{key}` and `{other}`; leave one of them")
    names = dict(KEYS)
    there = {KEYS.get(key, key) for key, value in entry.items() if is_filled(value)}
    for key, name in LESS_USUAL.items():
        if name not in there and is_filled(entry.get(key)):
            names[key] = name
            there.add(name)
    empty = [key for pair in names.items() for key in pair if key in entry and not is_filled(entry[key])]
    # Of the two names of a key, the one that says nothing must not replace the other.
    found = {names.get(key, key): value for key, value in entry.items() if key not in empty}
    found |= {names.get(key, key): entry[key] for key in empty if names.get(key, key) not in found}
    role = found.get("role")
    if not isinstance(role, str):
        return found
    name = role.strip().lower()
    if name in CALLS:
        return called(found, where, name)
    return found | {"role": ROLES.get(name, name)}


def is_chat(value: object) -> bool:
    """Return whether a value looks like a list of messages: each has a role, and says something."""
    entries = value if isinstance(value, list) else []
    return bool(entries) and all(
        isinstance(entry, dict) and SPEAKERS & entry.keys() and WORDS & entry.keys() for entry in entries
    )


def has_known_roles(value: object) -> bool:
    """Return whether what looks like a list of messages has only roles that there are."""
    roles = [entry[key] for entry in value for key in SPEAKERS & entry.keys()] if isinstance(value, list) else []
    return all(isinstance(role, str) and role.strip().lower() in KNOWN_ROLES for role in roles)


def is_message(row: dict[str, object]) -> bool:
    """Return whether a row is a single message of a conversation. An author alone may be that of any text."""
    return is_chat([row]) and has_known_roles([row]) and bool(SPEAKERS & row.keys() - {"author"})


def called(found: dict[str, object], where: str, role: str) -> dict[str, object]:
    """Return a message whose content is a call as one of the assistant with `tool_calls`. Raises DataError."""
    calls = found.pop("content", None)
    if not is_filled(calls) or (isinstance(calls, str) and not calls.lstrip().startswith(("{", "["))):
        what = f"the role is {shown(role)}, but its text is not JSON"
        raise DataError(f'{where}: {what}; write {{"name": …, "arguments": {{…}}}}, or use the role gpt for words')
    is_list = isinstance(calls, list) or (isinstance(calls, str) and calls.lstrip().startswith("["))
    return found | {"role": "assistant", "content": None, "tool_calls": calls if is_list else [calls]}
