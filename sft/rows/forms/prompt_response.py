"""A prompt and its response in two columns: `{"question": "…", "answer": "…"}`. Both are texts or lists of messages.

GSM8K has question and answer, alpaca instruction and output, TRL prompt and completion (as text, which TRL trains
without a template, or as messages), Dolly instruction, context and response, and axolotl has most of the others:
https://huggingface.co/datasets/openai/gsm8k
https://github.com/tatsu-lab/stanford_alpaca#data-release
https://huggingface.co/docs/trl/dataset_formats
https://huggingface.co/datasets/databricks/databricks-dolly-15k
https://docs.axolotl.ai/docs/dataset-formats/inst_tune.html
"""

from __future__ import annotations

import re
from dataclasses import replace

from sft.errors import DataError
from sft.rows.conversation import Message
from sft.rows.forms import history, messages, parts, sharegpt
from sft.rows.forms.columns import Columns, given, without
from sft.rows.tools import calls_of
from sft.rows.values import checked_text, from_text, type_name
from sft.settings.kinds import ColumnRole

PYTHONS = re.compile(r"\s*\[\s*\{\s*'(role|from|content|value)'\s*:")  # what str() makes of a list of messages


def used(columns: Columns) -> list[str]:
    """Return the columns of a prompt and its response, and those that belong to the prompt."""
    prompt = prompts(columns)
    if not prompt or "response" not in columns.filled:
        return []
    inputs = [name for name in columns.all_of("input") if name not in prompt]
    return [*prompt, *inputs, *columns.all_of("response", "reasoning", "system", "history")]


def prompts(columns: Columns) -> list[str]:
    """Return the filled columns of the prompt: `input` if there is no other, as in rows of input and output."""
    if found := columns.all_of("prompt"):
        return found
    named = "prompt" in columns.named.values()
    return [] if named else [name for name in columns.all_of("input") if name.strip().lower() == "input"]


def convert(columns: Columns) -> list[Message]:
    """Return the messages. The answers in a prompt that is a list of messages are context."""
    prompt = columns.one("prompt") if columns.filled.get("prompt") else prompts(columns)[0]
    response = columns.one("response")
    asked = chat_in(columns, prompt)
    before = [replace(message, is_target=message.role != "assistant") for message in asked]
    if asked and (extras := [name for name in columns.all_of("input") if name != prompt]):
        extra = extras[0]
        what = f"column {prompt!r} is a list of messages, to which the column {extra!r} cannot be added"
        raise DataError(f"{columns.where}: {what}; remove it, or set {without(extra)}")
    if not asked:
        before = [Message("user", history.prompt_of(columns, prompt))]
    answers = chat_in(columns, response) or calls_in(columns, response)
    answers = answers or [Message("assistant", text_in(columns, response))]
    if not any(message.is_answer for message in answers):
        raise DataError(f"{columns.where}: column {response!r} has no assistant message, so no target token; add one")
    return [*history.history_of(columns), *before, *with_reasoning(answers, columns)]


def with_reasoning(answers: list[Message], columns: Columns) -> list[Message]:
    """Return the answer with the reasoning in a column that the settings name. Raises DataError if it has its own."""
    if not columns.filled.get("reasoning"):
        return answers
    name = columns.one("reasoning")
    text = text_in(columns, name)
    *others, last = answers
    if others or any(message.split()[0] for message in answers):
        what = f"the reasoning in column {name!r} cannot be added to an answer of several messages, or with its own"
        raise DataError(f"{columns.where}: {what}; set {without(name)}")
    return [replace(last, keys={**last.keys, "reasoning_content": text})]


def text_in(columns: Columns, name: str) -> str:
    """Return the text in a column, or in a list that says the same in each item. Raises DataError."""
    value, what = columns.row[name], f"column {name!r}"
    if isinstance(value, list) and value and all(isinstance(item, str) and item == value[0] for item in value):
        value = value[0]
    if isinstance(value, (list, dict)) and (part := parts.first_text(value)):
        role: ColumnRole = "response" if name in columns.all_of("response") else "prompt"
        raise DataError(
            f"{columns.where}: {what} is not text but {type_name(value)}; name a text in it, as in "
            f"{given(f'{name}.{part}', role)}"
        )
    return checked_text(value, columns.where, what)


def calls_in(columns: Columns, name: str) -> list[Message]:
    """Return the message of a column that holds calls of the row's tools, as xLAM has them; nothing if it does not.

    https://huggingface.co/datasets/Salesforce/xlam-function-calling-60k
    """
    value = columns.row[name]
    if not columns.filled.get("tools") or (isinstance(value, str) and not value.lstrip().startswith("[{")):
        return []
    calls = from_text(value, columns.where, f"column {name!r}")
    if (
        not isinstance(calls, list)
        or not calls
        or not all(isinstance(call, dict) and "arguments" in call for call in calls)
    ):
        return []
    return [Message("assistant", None, keys={"tool_calls": calls_of(calls, columns.where)})]


def chat_in(columns: Columns, name: str) -> list[Message]:
    """Return the messages in a column, which may be text that holds JSON; nothing if it is an ordinary text."""
    value = columns.row[name]
    is_text = isinstance(value, str)
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            value = from_text(value, columns.where, "")
        except DataError:
            if PYTHONS.match(str(value)):
                what = f"column {name!r} holds messages as Python prints them, which is not JSON"
                raise DataError(f"{columns.where}: {what}; write them with json.dumps") from None
            return []
    value = [value] if isinstance(value, dict) else value  # LLaMA-Factory's `chosen` is one message
    if not sharegpt.is_chat(value) or (is_text and not sharegpt.has_known_roles(value)):
        return []  # an answer may be JSON, even with a key `role`
    return messages.messages_of(value, columns.where, f"column {name!r}")
