"""Small invented chat templates, one for each way in which real ones differ, and what a row becomes with them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from sft.errors import DataError
from sft.settings.load import load
from sft.trainer.data import chat_template, probe
from sft.trainer.data.rows import TokenisedRow
from sft.trainer.data.tokenise import Tokeniser

CHATML_MARKS = ("<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The mark that opens the next turn ends the answer before it, as in GLM 4.
NEXT_ROLE_MARKS = ("<|user|>", "<|assistant|>", "<|system|>", "<|observation|>")
NEXT_ROLE = (
    "{% for message in messages %}{{ '<|' + message.role + '|>\n' + message.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# An answer is closed only if another message follows it, as in Apertus.
CLOSED_BY_NEXT_MARKS = ("<|u|>", "<|/u|>", "<|a|>", "<|/a|>")
CLOSED_BY_NEXT = (
    "{% for message in messages %}{% if message.role == 'assistant' %}{{ '<|a|>' + message.content }}"
    "{% if not loop.last %}<|/a|>{% endif %}{% else %}{{ '<|u|>' + message.content + '<|/u|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|a|>{% endif %}"
)
# EOS stands behind the last turn only, as in Phi 3.
EOS_AT_THE_END_MARKS = ("<|user|>", "<|assistant|>", "<|end|>")
EOS_AT_THE_END = (
    "{% for message in messages %}{{ '<|' + message.role + '|>\n' + message.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
# The generation prompt opens reasoning, and the template strips it from the content, as in DeepSeek R1.
OPENS_THINKING_MARKS = ("<|U|>", "<|A|>")
OPENS_THINKING = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}"
    "{{ '<|A|>' + message.content.split('</think>')[-1] + eos_token }}{% else %}{{ '<|U|>' + message.content }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|A|><think>\n' }}{% endif %}"
)
# An earlier answer loses its reasoning; the key and the content are read; the prompt says what is wanted, as in Qwen 3.
SWITCHES_THINKING = (
    "{% for message in messages %}{% if message.role == 'assistant' %}"
    "{% set words = message.content.split('</think>')[-1].lstrip('\n') %}"
    "{% if message.reasoning_content %}{% set reasoning = message.reasoning_content %}"
    "{% elif '</think>' in message.content %}"
    "{% set reasoning = message.content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% else %}{% set reasoning = '' %}{% endif %}<|im_start|>assistant\n"
    "{% if loop.last %}{{ '<think>\n' + reasoning + '\n</think>\n\n' }}{% endif %}{{ words + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
# The system message stands before the last user message, if that is the last message, as in Mistral v0.3.
SYSTEM_LAST = (
    "{% set system = messages[0].content if messages[0].role == 'system' else '' %}{{ bos_token }}"
    "{% for message in messages %}{% if message.role == 'user' %}[INST] "
    "{% if loop.last and system %}{{ system + '\n\n' }}{% endif %}{{ message.content + '[/INST]' }}"
    "{% elif message.role == 'assistant' %}{{ ' ' + message.content + eos_token }}{% endif %}{% endfor %}"
)
PARTS = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% for part in message.content %}{{ part.text }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# No marks, and a generation prompt that ends with a space.
LINES = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + ('\\n' if m.role == 'user' else eos_token) }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
NO_GENERATION_PROMPT = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
)


def tools_with(arguments: str, content: str = "message.content or ''") -> str:
    """Return a template that writes tools, calls, with their arguments as an expression says, and their results."""
    return (
        "{% if tools %}{{ '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}"
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + (" + content + ") }}"
        '{% for call in message.tool_calls or [] %}{{ \'<call>{"name": "\' + call.function.name + \'", "arguments": \''
        " + (" + arguments + ") + '}</call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


OBJECT_ARGUMENTS = tools_with("call.function.arguments | tojson")
TEXT_ARGUMENTS = tools_with("call.function.arguments")


def with_template(tokenizer: Any, template: object, marks: Iterable[str] = (), eos: str | None = None) -> Any:
    """Return a copy of a tokenizer with a template and the special tokens that it writes."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"extra_special_tokens": list(marks)}, replace_extra_special_tokens=False)
    tokenizer.chat_template = template
    if eos is not None:
        tokenizer.eos_token = eos
    return tokenizer


def tokeniser(tokenizer: Any, stops: Iterable[str] = (), **values: Any) -> Tokeniser:
    """Return a tokeniser with settings. `stops`: where the model stops, beside EOS."""
    settings = load(None, **values)
    template = chat_template.of(copy.deepcopy(tokenizer), settings)
    ends = {tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list(stops))}
    return Tokeniser(probe.probe(template, ends), settings, asked=True)


def marked(found: Tokeniser, sequence: TokenisedRow) -> str:
    """Return a sequence as text, with its targets in ⟦…⟧."""
    runs: list[tuple[bool, list[int]]] = []
    for token, is_target in zip(sequence.ids, sequence.is_target, strict=True):
        if not runs or runs[-1][0] != is_target:
            runs.append((is_target, []))
        runs[-1][1].append(token)
    texts = [(is_target, found.probe.tokenizer.decode(ids)) for is_target, ids in runs]
    return "".join(f"⟦{text}⟧" if is_target else text for is_target, text in texts)


def chat(*turns: str | dict[str, object], **columns: object) -> dict[str, object]:
    """Return a row of messages: texts of the user and the assistant in turn, or whole messages."""
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": turn} if isinstance(turn, str) else turn
        for i, turn in enumerate(turns)
    ]
    return {"messages": messages, **columns}


def trained(found: Tokeniser, row: dict[str, object]) -> list[str]:
    """Return what a row is trained as, each sequence as `marked` shows it. Raises DataError."""
    (result,) = found.rows([("a.jsonl:7", row)])
    if isinstance(result, DataError):
        raise result
    assert isinstance(result, list), result
    return [marked(found, sequence) for sequence in result]
