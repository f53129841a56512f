"""What some published chat templates do that others do not, each in a template of its own."""

import copy

import pytest

from sft.settings.load import load
from sft.trainer.data import chat_template, probe
from sft.trainer.data.tokenise import Tokeniser

MARKS = ("<|end|>", "<think>", "</think>", "<|tool|>")
QUESTION = {"role": "user", "content": "How many eggs?"}
ANSWER = {"role": "assistant", "content": "3 + 2 = 5"}
CALL = {"type": "function", "id": "c1", "function": {"name": "count", "arguments": {"what": "eggs"}}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "name": "count", "content": "five"}
PROMPT = "{% if add_generation_prompt %}<assistant>{% endif %}"


@pytest.fixture(scope="module")
def marked(tokenizer):
    """The tiny model's tokenizer with some more marks."""
    made = copy.deepcopy(tokenizer)
    made.add_tokens(list(MARKS), special_tokens=True)
    return made


def turns(**by_role):
    """A template that writes each role's turns in its own way."""
    cases = "".join(f"{{% elif m['role'] == '{role}' %}}{text}" for role, text in by_role.items())
    return (
        "{% for m in messages %}{% if m['role'] == 'user' %}<user>{{ m['content'] }}"
        + cases
        + "{% endif %}{% endfor %}"
    )


def trained(tokenizer, template, *messages, stops=(), tools=True):
    """What becomes of a row: the text before each sequence's last answer, and its targets; or the error."""
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    stops = {own.eos_token_id, *own.convert_tokens_to_ids(list(stops))}
    found = probe.probe(chat_template.of(own, load(None)), stops)
    columns = {"tools": [{"type": "function", "function": {"name": "count"}}]} if tools else {}
    made = Tokeniser(found, load(None)).rows([("a.jsonl:1", {"messages": list(messages), **columns})])[0]
    if isinstance(made, Exception):
        return str(made)
    rows = [list(zip(row.ids, row.is_target, strict=True)) for row in made]
    return [
        (own.decode([token for token, target in row if not target]), own.decode([t for t, target in row if target]))
        for row in rows
    ]


CALLS = "{% for c in m['tool_calls'] or [] %}({{ c['function']|tojson }}){% endfor %}"
TOOLS = "{% if tools %}{{ tools[0]['function']['name'] }}{% endif %}"


def test_the_first_of_two_end_marks_counts(marked):
    template = TOOLS + turns(assistant="<assistant>{{ m['content'] }}</s>\n</s>") + PROMPT
    [(_, targets)] = trained(marked, template, QUESTION, {**ANSWER, "content": "It is </s> here."})
    assert targets == "It is </s> here.</s>"


def test_a_prompt_that_opens_and_closes_thinking_has_no_part_of_a_mark_in_common_with_the_turn(marked):
    template = (
        TOOLS
        + turns(assistant="<assistant></think>{{ m['content'] }}</s>")
        + "{% if add_generation_prompt %}<assistant><think></think>{% endif %}"
    )
    [(prompt, targets)] = trained(marked, template, QUESTION, ANSWER)
    assert prompt.endswith("<assistant><think></think>") and targets == "3 + 2 = 5</s>"


def test_an_opening_that_differs_in_white_space_is_no_target(marked):
    template = (
        TOOLS
        + turns(assistant="\n\n<assistant>\n{{ m['content'] }}</s>")
        + "{% if add_generation_prompt %}<assistant>\n{% endif %}"
    )
    [(prompt, targets)] = trained(marked, template, QUESTION, ANSWER)
    assert prompt.endswith("eggs?<assistant>\n") and targets == "3 + 2 = 5</s>"


def test_a_second_answer_without_a_generation_prompt_is_refused(marked):
    template = (
        TOOLS
        + turns(assistant="<assistant>{{ m['content'] }}{% if not loop.last %}</s>\n{% endif %}")
        + "{% if add_generation_prompt and messages[-1]['role'] == 'user' %}<assistant>{% endif %}"
    )
    refusal = trained(marked, template, QUESTION, ANSWER, {**ANSWER, "content": "So 5."})
    assert "it writes no generation prompt behind an answer, so message 3 has none; join the two answers" in refusal


def test_answers_that_follow_each_other_directly_are_all_trained(marked):
    template = (
        TOOLS
        + turns(assistant="{{ m['content'] }}</s>")
        + "{% if add_generation_prompt and messages[-1]['role'] == 'user' %}{% endif %}"
    )
    [(_, targets)] = trained(marked, template, QUESTION, ANSWER, {**ANSWER, "content": "So 5."})
    assert targets == "3 + 2 = 5</s>So 5.</s>"


def test_what_follows_a_call_only_in_the_middle_is_no_part_of_its_end(marked):
    calls = "{% for c in m['tool_calls'] or [] %}({{ c['function']|tojson }}{% if not loop.last or not last %} "
    calls += "{{ c['id'] }}{% endif %}){% endfor %}"
    template = (
        TOOLS
        + turns(
            assistant="{% set last = loop.last %}<assistant>{{ m['content'] or '' }}"
            + calls
            + "{% if not loop.last %}<|end|>{% endif %}",
            tool="<|tool|>{{ m['content'] }}",
        )
        + PROMPT
    )
    sequences = trained(marked, template, QUESTION, CALLING, RESULT, ANSWER, stops=["<|end|>"])
    assert [targets for _, targets in sequences] == [
        '({"name": "count", "arguments": {"what": "eggs"}})<|end|>', "3 + 2 = 5<|end|>",
    ]  # fmt: skip


def test_the_content_of_an_earlier_call_may_have_to_be_there(marked):
    template = (
        TOOLS
        + turns(
            assistant="<assistant>{% if loop.last %}{{ m['content'] or '' }}{% else %}{{ '' + m.content }}{% endif %}"
            + CALLS
            + "</s>",
            tool="<|tool|>{{ m['content'] }}",
        )
        + PROMPT
    )
    [(_, targets)] = trained(marked, template, QUESTION, CALLING, RESULT, ANSWER)
    assert targets == '({"name": "count", "arguments": {"what": "eggs"}})</s>3 + 2 = 5</s>'


def test_a_call_ends_where_words_end_though_eos_follows_at_the_very_end(marked):
    template = (
        TOOLS
        + turns(assistant="<assistant>{{ m['content'] or '' }}" + CALLS + "<|end|>", tool="<|tool|>{{ m['content'] }}")
        + "{% if not add_generation_prompt %}</s>{% endif %}"
        + PROMPT
    )
    [(_, targets)] = trained(marked, template, QUESTION, CALLING, RESULT, ANSWER)
    assert targets == '({"name": "count", "arguments": {"what": "eggs"}})<|end|>3 + 2 = 5<|end|>'


# The prompt opens reasoning behind the question, on one line, with marks of its own; words have a mark too.
OPENING = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|end|>{% if m.reasoning_content %}<think>"
    "{{ m.reasoning_content }}</think>{% endif %}<|tool|>{{ m.content }}</s>{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|end|><think>{% endif %}"
)


@pytest.mark.parametrize("opener", ["<think>", "<|think|>"])
def test_an_answer_without_reasoning_closes_what_the_prompt_opens_on_the_line_of_the_question(marked, opener):
    own = copy.deepcopy(marked)
    own.add_tokens(["<|think|>", "<|/think|>"], special_tokens=True)
    closer = opener.replace("<|", "<|/") if "|" in opener else "</think>"
    template = OPENING.replace("</think>", closer).replace("<think>", opener)
    row = (QUESTION, ANSWER)
    assert trained(own, template, *row, tools=False) == [
        (f"How many eggs?<|end|>{opener}", f"{closer}<|tool|>3 + 2 = 5</s>")
    ]
    row = (QUESTION, {**ANSWER, "reasoning_content": "Hm."})
    assert trained(own, template, *row, tools=False) == [
        (f"How many eggs?<|end|>{opener}", f"Hm.{closer}<|tool|>3 + 2 = 5</s>")
    ]


def test_reasoning_of_a_call_behind_a_closed_block_of_it_is_refused(marked):
    """As in Gemma 4, which writes reasoning only beside calls, and whose prompt has an empty block."""
    template = (
        TOOLS
        + turns(
            assistant="<assistant>{% if m.tool_calls and m.reasoning_content %}<|tool|>thought "
            "{{ m.reasoning_content }}<|end|>{% endif %}" + CALLS + "{{ m['content'] or '' }}</s>"
        )
        + "{% if add_generation_prompt %}<assistant><|tool|>thought <|end|>{% endif %}"
    )
    said = trained(marked, template, QUESTION, {**CALLING, "reasoning_content": "Hm."})
    assert "its generation prompt ends reasoning before the answer begins, and this answer has some" in said
    (_, target), *_ = trained(marked, template, QUESTION, CALLING)
    assert target.startswith('({"')


@pytest.mark.parametrize("words", [{"content": "<think>Hm.</think>I count."}, {"reasoning_content": "Hm."}])
def test_reasoning_of_a_call_is_refused_if_the_template_writes_calls_alone(marked, words):
    """As in Llama 3.1: the content of an answer, reasoning in it too, is left out if the answer has calls."""
    template = TOOLS + turns(
        assistant="<assistant>{% if m.tool_calls %}" + CALLS + "{% else %}{{ m['content'] }}{% endif %}</s>"
    )
    said = trained(marked, template + PROMPT, QUESTION, {**CALLING, **words})
    assert "it leaves out 'Hm.' of the reasoning beside tool calls; set CHAT_TEMPLATE to another one" in said


@pytest.mark.parametrize("content", ["Well. <think>Hm.</think>5", "</think> ends <think>what</think> it opens"])
def test_reasoning_behind_words_is_a_part_of_the_words(marked, content):
    row = (QUESTION, {**ANSWER, "content": content})
    plain = turns(assistant="<assistant>{{ m['content'] }}</s>") + PROMPT
    assert trained(marked, plain, *row, tools=False) == [("<user>How many eggs?<assistant>", f"{content}</s>")]
    stripping = turns(assistant="<assistant>{{ m['content'].split('</think>')[-1] }}</s>") + PROMPT
    assert "it leaves out" in trained(marked, stripping, *row, tools=False)
