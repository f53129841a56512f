"""Random conversations over every invented template: no word of another role is a target, nothing is lost or raised."""

import functools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sft.errors import DataError

from . import chat_templates as of
from .chat_templates import chat, marked, tokeniser, with_template

NAMES = (
    "CHATML", "NEXT_ROLE", "CLOSED_BY_NEXT", "EOS_AT_THE_END", "OPENS_THINKING", "SWITCHES_THINKING", "SYSTEM_LAST",
    "PARTS", "NO_GENERATION_PROMPT", "LINES", "OBJECT_ARGUMENTS", "TEXT_ARGUMENTS",
)  # fmt: skip
MARKS = sorted({mark for name in vars(of) if name.endswith("_MARKS") for mark in getattr(of, name)})
ODD = [
    "",
    " ",
    "\n\n",
    "</s>",
    "<think>",
    "</think>",
    "<|im_end|>",
    "{{ x }}",
    "日本 🙂",
    "\u2028",
    "\x00",
    "\ufeff",
    "#### 5",
]
texts = st.lists(st.sampled_from(ODD), max_size=2)


def text(word):
    """Texts that hold a word, so that it can be found again."""
    return st.tuples(texts, texts).map(lambda around: "".join(around[0]) + word + "".join(around[1]))


others = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["user", "system", "developer", "tool", "function", "ipython"]), text("zqotherqz"),
)  # fmt: skip
answers = st.builds(
    lambda content, keys: {"role": "assistant", "content": content, **keys},
    text("zqanswerqz"),
    st.one_of(
        st.just({}), st.just({"weight": 0}), text("zqreasonqz").map(lambda text: {"reasoning_content": text}),
        text("zqcallqz").map(
            lambda text: {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": text}}}]}
        ),
    ),
)  # fmt: skip
conversations = st.lists(st.one_of(others, answers), max_size=4).flatmap(
    lambda before: answers.map(lambda last: chat({"role": "user", "content": "zqotherqz"}, *before, last))
)


@pytest.mark.parametrize("how", ["parse", "split"])
@pytest.mark.parametrize("name", [*NAMES, "plain"])
def test_only_answers_are_targets(tokenizer, name, how):
    found = made(tokenizer, name, how)

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(conversations)
    def check(row):
        (result,) = found.rows([("a.jsonl:7", row)])
        if isinstance(result, DataError):
            assert str(result).startswith("a.jsonl:7: ") and str(result).isprintable()
            return
        shown = [marked(found, sequence) for sequence in result]
        trained = "".join(part.partition("⟧")[0] for text in shown for part in text.split("⟦")[1:])
        assert "zqotherqz" not in trained
        wanted = [one for one in row["messages"] if one["role"] == "assistant" and one.get("weight") != 0]
        assert trained.count("zqanswerqz") == len(wanted)
        assert trained.count("zqreasonqz") == sum("reasoning_content" in one for one in wanted)
        assert trained.count("zqcallqz") == sum("tool_calls" in one for one in wanted)
        for sequence in result:
            marks = [*zip(sequence.ids, sequence.is_target, strict=True), (None, False)]
            ends = [marks[i][0] for i in range(len(sequence.ids)) if marks[i][1] and not marks[i + 1][1]]
            assert ends and set(ends) <= set(found.probe.stops)

    check()


@functools.cache
def made(tokenizer, name, how):
    """Return the tokeniser of a template by its name."""
    own = with_template(tokenizer, getattr(of, name, None), MARKS)
    return tokeniser(own, special_tokens_in_text=how, max_length=4096)
