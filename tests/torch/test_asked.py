"""Evaluation asks and marks the same turn: an answer that is generated as it was trained is right."""

import copy
import itertools

import numpy as np
import pytest

from sft.settings.load import load
from sft.trainer.data import chat_template, probe, row_writer, rows
from sft.trainer.data.tokenise import Tokeniser
from sft.trainer.evaluation.score import compare
from sft.trainer.model import answer_text

# A template with tool calls, and reasoning in a key that only the last answer keeps.
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<assistant>"
    "{% if m.reasoning_content and loop.last %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content or '' }}{% for call in m.tool_calls or [] %}"
    "{{ '\n[call]' + ({'name': call.function.name, 'arguments': call.function.arguments} | tojson) + '[/call]' }}"
    "{% endfor %}{{ eos_token }}{% else %}{{ '<user>' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 3, "b": 2}}}
ASKED = {"role": "user", "content": "3 + 2?"}
ROWS = {
    "words": [ASKED, {"role": "assistant", "content": " 3 + 2 = 5\n#### 5 "}],
    "reasoning in its key": [ASKED, {"role": "assistant", "content": "5", "reasoning_content": "I add 3 and 2."}],
    "reasoning in the content": [ASKED, {"role": "assistant", "content": "<think>\nI add.\n</think>\n\n5"}],
    "a call": [ASKED, {"role": "assistant", "content": "", "tool_calls": [CALL]}],
    "words and a call": [ASKED, {"role": "assistant", "content": "I add.", "tool_calls": [CALL]}],
    "reasoning and a call": [
        ASKED, {"role": "assistant", "content": "", "reasoning_content": "I add.", "tool_calls": [CALL]},
    ],
    "several turns": [ASKED, {"role": "assistant", "content": "5"}, ASKED, {"role": "assistant", "content": "five"}],
    "the last message is the user's": [ASKED, {"role": "assistant", "content": "5"}, ASKED],
    "an empty last answer": [
        ASKED, {"role": "assistant", "content": "5"}, {"role": "user", "content": "7?"},
        {"role": "assistant", "content": ""},
    ],
}  # fmt: skip


@pytest.fixture
def tokeniser(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = TEMPLATE
    settings = load(None)
    found = probe.probe(chat_template.of(tokenizer, settings), {tokenizer.eos_token_id})
    return Tokeniser(found, settings)


@pytest.mark.parametrize("messages", ROWS.values(), ids=ROWS)
def test_an_answer_as_it_was_trained_is_right(tokeniser, messages, tmp_path):
    found = tokeniser.rows([("row 1", {"messages": copy.deepcopy(messages)})])
    row_writer.write(tmp_path / "rows", itertools.chain.from_iterable(found))
    written = rows.Rows(tmp_path / "rows")
    (index,) = written.asked().tolist()  # one answer of a row is asked for, however many sequences it has
    texts = list(written.texts())[index]
    prompt = texts.prompt_ids or written.prompt_ids(index)
    ids, is_target = written[index]
    assert ids[: len(prompt)].tolist() == prompt and is_target[len(prompt) :].all()
    answer = ids[len(prompt) :].tolist()
    assert answer[-1] in tokeniser.probe.stops and not np.isin(answer[:-1], tokeniser.probe.stops).any()
    _, words = answer_text.texts(answer[:-1], tokeniser.probe.tokenizer, tokeniser.probe.reasoning_ends)
    assert compare(words, texts.reference, "text").is_exact, (words, texts.reference)
    assert "think" not in texts.reference and texts.prompt == "3 + 2?"
