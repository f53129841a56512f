"""Everything that a row says is in what is trained, or the row is refused with what the template leaves out."""

import pytest

from sft.errors import DataError

from . import chat_templates as of
from .chat_templates import CHATML, CHATML_MARKS, OBJECT_ARGUMENTS, chat, tokeniser, trained, with_template

QUESTION, ANSWER = {"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A"}
TOOL = {
    "type": "function",
    "function": {"name": "find", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
RESULT = {"role": "tool", "content": "R", "tool_call_id": "c1", "name": "find"}
# Messages of other roles are not written, as in Phi.
TWO_ROLES = CHATML.replace(
    "{{ '<|im_start|>'", "{% if message.role in ('user', 'assistant') %}{{ '<|im_start|>'", 1
).replace("{% endfor %}", "{% endif %}{% endfor %}", 1)
NAMES = CHATML.replace("message.role +", "message.role + (' ' + message.name if message.name else '') +")
NAMES_OF_TOOLS = NAMES.replace("if message.name", "if message.name and message.role == 'tool'")


def call(arguments, content=None, **keys):
    calls = [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": arguments}}]
    return {"role": "assistant", "content": content, "tool_calls": calls, **keys}


def row(*messages, **columns):
    return {"messages": list(messages), **columns}


def refusal(tokenizer, template, given, **settings):
    found = tokeniser(with_template(tokenizer, template, CHATML_MARKS), **settings)
    with pytest.raises(DataError) as caught:
        trained(found, given)
    return str(caught.value).removeprefix("a.jsonl:7: the chat template cannot render it: ")


@pytest.mark.parametrize(
    "template",
    [OBJECT_ARGUMENTS, of.TEXT_ARGUMENTS, of.tools_with("call.function.arguments | tojson", "message.content")],
    ids=["objects", "texts", "content is always there"],
)
@pytest.mark.parametrize(
    "arguments", [{"town": 'Bonn "é"', "n": [1, None, True]}, '{"town": "Bonn \\"é\\"", "n": [1, null, true]}']
)
def test_calls_are_targets_in_the_form_that_the_template_takes(tokenizer, template, arguments):
    found = tokeniser(with_template(tokenizer, template, CHATML_MARKS))
    (text,) = trained(found, row(QUESTION, call(arguments), RESULT, ANSWER, tools=[TOOL]))
    written = '{"name": "find", "arguments": {"town": "Bonn \\"é\\"", "n": [1, null, true]}}'
    assert text.startswith('<|im_start|>system\n[{"type": "function", "function": {"name": "find",')
    assert text.endswith(
        f"<|im_start|>assistant\n⟦<call>{written}</call><|im_end|>⟧\n<|im_start|>tool\nR<|im_end|>\n"
        "<|im_start|>assistant\n⟦A<|im_end|>⟧"
    )


def test_words_beside_a_call_are_trained_too(tokenizer):
    found = tokeniser(with_template(tokenizer, OBJECT_ARGUMENTS, CHATML_MARKS))
    (text,) = trained(found, row(QUESTION, call({}, "Let me see.")))
    assert text.endswith('⟦Let me see.<call>{"name": "find", "arguments": {}}</call><|im_end|>⟧')


@pytest.mark.parametrize(
    ("template", "given", "said"),
    [
        (CHATML, row(QUESTION, call({})), "it writes no tool calls; set CHAT_TEMPLATE to another one, or change"),
        (OBJECT_ARGUMENTS.replace("{% if tools %}", "{% if false %}"), row(QUESTION, call({}), tools=[TOOL]),
         "it leaves out the tools; leave the tools out, or set CHAT_TEMPLATE to another one"),
        (CHATML, row(QUESTION, ANSWER, tools=[TOOL]),
         "it leaves out the tools (find); leave the tools out, or set CHAT_TEMPLATE to another one"),
        (TWO_ROLES, row(QUESTION, ANSWER, {"role": "tool", "content": "Result"}, ANSWER),
         "it leaves out messages of the role tool; set CHAT_TEMPLATE"),
        (TWO_ROLES, row(QUESTION, ANSWER, {"role": "tool", "content": "A"}, ANSWER),  # a word that is there anyway
         "it leaves out messages of the role tool; set CHAT_TEMPLATE"),
        (TWO_ROLES, row({"role": "developer", "content": "Be kind."}, QUESTION, ANSWER),
         "it leaves out messages of the role developer; set CHAT_TEMPLATE"),
        (CHATML, row({**QUESTION, "name": "Bob"}, ANSWER),
         "it does not use the key 'name' of messages of the role user; leave the key out, or set CHAT_TEMPLATE to an"),
        (CHATML, row(QUESTION, {**ANSWER, "citations": ["x"]}),
         "it does not use the key 'citations' of messages of the role assistant"),
        (NAMES_OF_TOOLS, row({**QUESTION, "name": "Bob"}, ANSWER, {**RESULT, "name": "x"}, ANSWER),
         "it does not use the key 'name' of messages of the role user"),
        (CHATML.replace("message.content", "message.content.split('####')[0]"), chat("Q?", "2 + 3 #### 5"),
         "it leaves out '5' of the words of message 2"),
    ],
)  # fmt: skip
def test_what_a_template_leaves_out_is_named(tokenizer, template, given, said):
    assert refusal(tokenizer, template, given).startswith(said)


@pytest.mark.parametrize(
    ("template", "marks"), [(of.OPENS_THINKING, of.OPENS_THINKING_MARKS), (of.SWITCHES_THINKING, CHATML_MARKS)]
)
def test_reasoning_that_was_cut_is_not_trained_as_the_answer(tokenizer, template, marks):
    found = tokeniser(with_template(tokenizer, template, marks))
    with pytest.raises(DataError, match="the reasoning in message 2 is never closed, so it would be trained as the"):
        trained(found, chat("2 + 2?", "<think>Two and two are"))
    (context,) = trained(
        found, chat("2 + 2?", {"role": "assistant", "content": "<think>Two", "train": False}, "So?", "4")
    )
    assert context.count("⟦") == 1 and "4" in context.partition("⟦")[2]
    assert trained(tokeniser(with_template(tokenizer, CHATML, CHATML_MARKS)), chat("2 + 2?", "<think>Two and"))


@pytest.mark.parametrize("role", ["developer", "function", "ipython", "tool"])
def test_messages_of_every_role_are_written_where_the_template_has_them(tokenizer, role):
    found = tokeniser(with_template(tokenizer, CHATML, CHATML_MARKS))
    (text,) = trained(found, row(QUESTION, ANSWER, {"role": role, "content": "Result"}, ANSWER))
    assert f"<|im_start|>{role}\nResult<|im_end|>" in text and text.count("⟦A<|im_end|>⟧") == 2


def test_a_name_is_written_where_the_template_reads_it(tokenizer):
    found = tokeniser(with_template(tokenizer, NAMES, CHATML_MARKS))
    assert trained(found, row({**QUESTION, "name": "Bob"}, ANSWER))[0].startswith("<|im_start|>user Bob\nQ?")


def test_the_system_prompt_is_named_if_it_is_what_a_template_refuses(tokenizer):
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    said = refusal(tokenizer, strict, chat("Q?", "A"), system_prompt="Be short.")
    assert said == "it takes no system message; leave SYSTEM_PROMPT empty, or set CHAT_TEMPLATE"
    said = refusal(tokenizer, strict, row({"role": "system", "content": "S."}, QUESTION, ANSWER))
    assert said == "it takes no system message; leave it out, or set CHAT_TEMPLATE"
    said = refusal(tokenizer, TWO_ROLES, chat("Q?", "A"), system_prompt="Be short.")
    assert said == "it takes no system message; leave SYSTEM_PROMPT empty, or set CHAT_TEMPLATE"


# What a template leaves out is found also if its words stand elsewhere in the row.
FIRST_CALL = OBJECT_ARGUMENTS.replace("in message.tool_calls or []", "in (message.tool_calls or [])[:1]")
ONE_SYSTEM = CHATML.replace(
    "{{ '<|im_start|>'", "{% if message.role != 'system' or loop.first %}{{ '<|im_start|>'", 1
).replace("{% endfor %}", "{% endif %}{% endfor %}", 1)
CALLS_ALONE = of.tools_with("call.function.arguments | tojson", "'' if message.tool_calls else message.content")
SYSTEM = {"role": "system", "content": "Be kind."}


def calls(*arguments, content=None, name="find"):
    found = [
        {"id": f"c{number}", "type": "function", "function": {"name": f"{name}{number}"[:4], "arguments": given}}
        for number, given in enumerate(arguments, 1)
    ]
    return {"role": "assistant", "content": content, "tool_calls": found}


@pytest.mark.parametrize(
    ("template", "given", "said"),
    [
        (FIRST_CALL, row(QUESTION, calls({"n": 1}, {"n": 2})), "it leaves out call 2 of message 2 (role assistant)"),
        (FIRST_CALL, row(QUESTION, {**calls({}, {}), "weight": 0}, RESULT, ANSWER),
         "it leaves out call 2 of message 2 (role assistant)"),
        (ONE_SYSTEM, row(SYSTEM, QUESTION, ANSWER, SYSTEM, QUESTION, ANSWER),
         "it leaves out the words of message 4 (role system)"),
        (ONE_SYSTEM, row(QUESTION, ANSWER, {"role": "system", "content": "A"}, QUESTION, ANSWER),
         "it leaves out the words of message 3 (role system)"),
        (CALLS_ALONE, row(QUESTION, calls({"town": "Bonn"}, content="Bonn")),
         "it leaves out the words of message 2 (role assistant)"),
    ],
)  # fmt: skip
def test_what_a_template_leaves_out_is_named_though_its_words_stand_elsewhere(tokenizer, template, given, said):
    assert refusal(tokenizer, template, given).startswith(f"{said}; set CHAT_TEMPLATE to another one")


def test_a_template_that_takes_no_made_up_words_is_left_to_the_words_of_the_row(tokenizer):
    strict = "{% if 'Q?' not in messages[0].content %}{{ raise_exception('no') }}{% endif %}"
    strict = "{% if messages[0].content is string and messages[0].content.startswith('zq0') %}" + strict + "{% endif %}"
    found = tokeniser(with_template(tokenizer, strict + CHATML, CHATML_MARKS))
    assert trained(found, row(QUESTION, ANSWER))[0].endswith("⟦A<|im_end|>⟧")


@pytest.mark.parametrize("reasoning", ["im_end", "end", "m"])
def test_reasoning_that_the_marks_of_an_answer_hold_is_no_less_refused(tokenizer, reasoning):
    said = refusal(tokenizer, CHATML, row(QUESTION, {**ANSWER, "reasoning_content": reasoning}))
    assert said.startswith("it leaves out reasoning_content")


@pytest.mark.parametrize("words", ["twelve", "a", "assistant"])
def test_an_answer_behind_another_one_has_an_opening_though_its_words_begin_like_it(tokenizer, words):
    given = row(QUESTION, ANSWER, {"role": "assistant", "content": words})
    lines = of.LINES.replace("{% if add", "{% if messages[-1].role == 'user' and add")
    found = tokeniser(with_template(tokenizer, lines))
    with pytest.raises(DataError, match="it writes no generation prompt behind an answer, so message 3 has none"):
        trained(found, given)


@pytest.mark.parametrize("words", ["twelve", "twelve plus one"])
def test_reasoning_that_the_words_repeat_is_trained_too_or_refused(tokenizer, words):
    by_key = {"role": "assistant", "content": words, "reasoning_content": "twelve"}
    in_content = {"role": "assistant", "content": f"<think>\ntwelve\n</think>\n\n{words}"}
    said = refusal(tokenizer, CHATML, row(QUESTION, by_key))
    assert said.startswith("it leaves out reasoning_content, as it writes reasoning only from the content")
    for template, marks in ((of.OPENS_THINKING, of.OPENS_THINKING_MARKS), (of.SWITCHES_THINKING, CHATML_MARKS)):
        found = tokeniser(with_template(tokenizer, template, marks))
        for answer in (by_key, in_content):
            (text,) = trained(found, row(QUESTION, answer))
            assert text.partition("⟦")[2].count("twelve") == 2 and text.count("</think>") == 1


WITH_IDS = OBJECT_ARGUMENTS.replace("message.role +", "message.role + (message.tool_call_id or '') +")


def results(*links):
    return [{"role": "tool", "content": f"R{number}", **link} for number, link in enumerate(links, 1)]


@pytest.mark.parametrize(
    "links",
    [
        [{"tool_call_id": "c2"}, {"tool_call_id": "c1"}],
        [{"tool_call_id": "c2"}],
        [{"name": "fin2"}, {"name": "fin1"}],
    ],
)
def test_results_in_another_order_than_their_calls_are_refused_if_nothing_says_so(tokenizer, links):
    given = row(QUESTION, calls({"n": 1}, {"n": 2}, name="fin"), *results(*links), ANSWER)
    said = refusal(tokenizer, OBJECT_ARGUMENTS, given)
    assert said == (
        "it does not write which call of message 2 a result belongs to, and the results are in another order; "
        "put them in the order of the calls, or set CHAT_TEMPLATE"
    )
    if "name" not in links[0]:
        assert trained(tokeniser(with_template(tokenizer, WITH_IDS, CHATML_MARKS)), given)


@pytest.mark.parametrize(
    "links", [[{"tool_call_id": "c1"}, {"tool_call_id": "c2"}], [{"tool_call_id": "c1"}], [{}, {}], [{"name": "fin1"}]]
)
def test_results_in_the_order_of_their_calls_are_trained(tokenizer, links):
    given = row(QUESTION, calls({"n": 1}, {"n": 2}, name="fin"), *results(*links), ANSWER)
    assert trained(tokeniser(with_template(tokenizer, OBJECT_ARGUMENTS, CHATML_MARKS)), given)
