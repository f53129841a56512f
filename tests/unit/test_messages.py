"""All of a message reaches the chat template, or the row is refused by the name of what would be lost."""

import json

import pytest

from sft.errors import DataError
from sft.rows import forms
from sft.settings.load import load

ASK = {"role": "user", "content": "2+2?"}
ANSWER = {"role": "assistant", "content": "4"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": None}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "default": None}}}


def convert(row, **settings):
    return forms.convert(row, "a.jsonl:7", load(None, **settings))


def chat(*messages, **columns):
    return convert({"messages": list(messages), **columns}).as_dicts()


def assistant(**keys):
    """Return the answer that a row with these keys of an answer gives."""
    return chat(ASK, {"role": "assistant", **keys})[-1]


def refused(row):
    with pytest.raises(DataError) as caught:
        convert(row)
    return str(caught.value)


def targets(*messages):
    return [message.content for message in convert({"messages": list(messages)}).messages if message.is_target]


def test_every_filled_key_is_kept_as_written_and_in_order():
    keys = {
        "name": "Lea",
        "reasoning_content": "two and two",
        "thinking": "two and two",
        "index": 0,
        "documents": [{"a": None}],
    }
    given = {"role": "assistant", "content": "4", **keys}
    assert assistant(**given) == given and list(assistant(**given)) == list(given)
    assert assistant(content="4", audio=None, refusal="", annotations=[], extra={}, partial=False) == ANSWER


@pytest.mark.parametrize("content", [None, "", "I look it up."])
def test_an_answer_may_be_a_call(content):
    assert assistant(content=content, tool_calls=[CALL]) == {
        "role": "assistant", "content": content, "tool_calls": [CALL]
    }  # fmt: skip
    assert assistant(tool_calls=[CALL])["content"] is None
    assert assistant(content=content, reasoning="two and two")["content"] == content


@pytest.mark.parametrize(
    "written",
    [
        [CALL],
        json.dumps([CALL]),
        [json.dumps(CALL)],
        [CALL | {"function": {"name": "add", "arguments": '{"a": 2, "b": null}'}}],
        [CALL | {"function": json.dumps(CALL["function"]), "type": None}],
        [{"id": "c1", "name": "add", "arguments": {"a": 2, "b": None}}],
        [{"id": "c1", "name": "add", "arguments": '{"a": 2, "b": null}', "type": "function"}],
    ],
)
def test_every_form_of_a_call_is_one(written):
    assert assistant(tool_calls=written)["tool_calls"] == [CALL]


def test_the_older_form_of_a_call_is_taken():
    called = {"name": "add", "arguments": '{"a": 2, "b": null}'}
    assert assistant(content=None, function_call=called)["tool_calls"] == [{k: CALL[k] for k in ("type", "function")}]
    without = {"type": "function", "function": {"name": "now", "arguments": {}}}
    for arguments in ({}, {"arguments": ""}, {"arguments": None}, {"arguments": "{}"}):
        assert assistant(function_call={"name": "now", **arguments})["tool_calls"] == [without]


@pytest.mark.parametrize(
    "columns",
    [
        {"tools": [TOOL]},
        {"tools": [{"function": TOOL["function"], "type": None}]},
        {"tools": json.dumps([TOOL])},
        {"tools": [json.dumps(TOOL)], "functions": None},
        {"functions": [TOOL["function"]], "tools": []},
        {"functions": json.dumps([TOOL["function"]])},
        {"tools": [{"type": "function", **TOOL["function"]}]},
        {"tools": [{"name": "add", "parameters": json.dumps(TOOL["function"]["parameters"])}]},
    ],
)
def test_tools_are_read_whatever_the_form_of_the_row(columns):
    assert convert({"messages": [ASK, ANSWER], **columns}).tools == (TOOL,)
    assert convert({"question": "2+2?", "answer": "4", **columns}).tools == (TOOL,)


def test_a_schema_keeps_the_order_of_its_keys():
    schema = {"function": {"parameters": {"b": {}, "a": {}}, "strict": False, "name": "f"}, "type": "function"}
    assert json.dumps(convert({"messages": [ASK, ANSWER], "tools": [schema]}).tools) == json.dumps([schema])


def test_a_schema_has_no_nulls_but_those_that_mean_something():
    """Such rows come from Arrow tables that were written as JSON: each function has the parameters of all."""
    number = {"type": "number", "default": None, "enum": [1, None], "items": None, "examples": None}
    named = {"default": number, "b": None, "const": None, "any": {"anyOf": [number, {"const": None, "type": None}]}}
    schema = {"name": "f", "description": None, "parameters": {"properties": named, "required": None}}
    number = {"type": "number", "default": None, "enum": [1, None]}
    expected = {"default": number, "any": {"anyOf": [number, {"const": None}]}}
    for tool in (schema, {"type": "function", "function": schema, "strict": None}):
        (found,) = convert({"messages": [ASK, ANSWER], "tools": [tool]}).tools
        assert found == {"type": "function", "function": {"name": "f", "parameters": {"properties": expected}}}


def test_messages_may_be_text_that_holds_json():
    assert convert({"messages": json.dumps([ASK, ANSWER])}).as_dicts() == [ASK, ANSWER]


@pytest.mark.parametrize(
    "content",
    ["Hi you", ["Hi ", "you"], [{"type": "text", "text": "Hi "}, {"text": "you", "image_url": None}],
     [{"type": "input_text", "text": "Hi you"}]],
)  # fmt: skip
def test_text_parts_are_joined(content):
    assert chat({"role": "user", "content": content}, ANSWER)[0] == {"role": "user", "content": "Hi you"}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "image_url", "image_url": {"url": "x"}}, "is of type 'image_url'; only text is trained: remove it"),
        ({"image": "x.png"}, "is of type 'image'; only text is trained: remove it, or the row"),
        ({"type": "input_audio", "input_audio": {}}, "is of type 'input_audio'; only text"),
        ({"type": "thinking", "thinking": "hm"}, "is of type 'thinking'; put it into the message's key `reasoning_con"),
        ({"type": "tool_use", "name": "f"}, "is of type 'tool_use'; put it into the message's key `tool_calls`"),
        ({"type": "text"}, "is not text but null; write a string"),
        ({"type": "text", "text": "a", "cache_control": {"a": 1}}, "has the key 'cache_control', which is not used"),
        ({"type": {}, "text": "a"}, "is of type an object; only text is trained"),
        (3, "is not text but int; write a string"),
    ],
)
def test_other_parts_are_refused_by_name(part, message):
    error = refused({"messages": [{"role": "user", "content": ["a", part]}, ANSWER]})
    assert error.startswith("a.jsonl:7: message 1: ") and f"part 2 of `content` {message}" in error


@pytest.mark.parametrize(
    "context", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"loss": False, "weight": 0}, {"trainable": False}]
)
@pytest.mark.parametrize("trained", [{}, {"weight": 1, "train": None}, {"train": True}, {"loss": 1.0}])
def test_an_answer_may_be_context(context, trained):
    messages = [ASK, {"role": "assistant", "content": "5", **context}, ASK, ANSWER | trained]
    assert targets(*messages) == ["2+2?", "2+2?", "4"]
    assert chat(*messages) == [ASK, ANSWER | {"content": "5"}, ASK, ANSWER]
    assert chat(ASK, ANSWER | trained, ASK, ANSWER | context) == [ASK, ANSWER]


def test_what_follows_the_last_target_is_left_out():
    empty = [{"role": "assistant", "content": content} for content in ("", " \n", [])]
    for last in (*empty, ASK, ANSWER | {"train": False}):
        assert chat(ASK, ANSWER, ASK, last) == [ASK, ANSWER]
    assert chat(ASK, empty[0], ASK, ANSWER) == [ASK, empty[0], ASK, ANSWER]


def test_a_greeting_is_context_unless_something_precedes_it():
    hello = {"role": "assistant", "content": "Hello"}
    assert targets(hello, ASK, ANSWER) == ["2+2?", "4"]
    assert chat(hello, ASK, ANSWER) == [hello, ASK, ANSWER]
    assert targets({"role": "developer", "content": "Greet."}, hello) == ["Greet.", "Hello"]
    greeted = convert({"messages": [hello]}, system_prompt="Greet.")
    assert greeted.messages[1].is_target and greeted.messages[0].content == "Greet."


def test_a_system_prompt_does_not_join_a_developer_message():
    own = {"role": "developer", "content": "Be long."}
    assert convert({"messages": [own, ASK, ANSWER]}, system_prompt="Be short.").as_dicts()[0] == own


def called(**function):
    return {"messages": [ASK, {"role": "assistant", "tool_calls": [{"function": function}]}]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": "x"}, "`messages` is not a list of objects (it is text); write [{"),
        ({"messages": "[x"}, "`messages`: is not valid JSON (Expecting value at column 2); fix"),
        ({"messages": {}}, "`messages` is not a list of objects (it is an object); write [{"),
        ({"messages": [ASK, None]}, "`messages` is not a list of objects (it holds null); write [{"),
        ({"messages": [{"role": "narrator"}]}, "message 1: role 'narrator' is unknown; use system, developer, user"),
        ({"messages": [{"content": "a"}]}, "message 1: has no `role`; write one of system, developer, user"),
        ({"messages": [ASK, {"role": "assistant"}]}, "message 2: `content` is null or missing"),
        ({"messages": [ASK | {"content": None}, ANSWER]}, "message 1: `content` is null or missing"),
        ({"messages": [ASK | {"content": {"a": 1}}, ANSWER]}, "message 1: `content` is not text but an object"),
        ({"messages": [ASK | {"content": "\ud800"}, ANSWER]}, "message 1: `content` holds half a character"),
        ({"messages": [ASK | {"name": "\ud800"}, ANSWER]}, "message 1: `name` holds half a character"),
        ({"messages": [ASK | {"\ud800": 1}, ANSWER]}, "message 1: a key holds half a character"),
        ({"messages": [ASK | {"note": float("nan")}, ANSWER]}, "`note` holds the number nan, which JSON does not"),
        ({"messages": [ASK | {"note": b"x"}, ANSWER]}, "message 1: `note` holds bytes, which JSON does not have"),
        ({"messages": [ASK | {"tool_calls": [CALL]}, ANSWER]}, "message 1: has `tool_calls` though its role is user"),
        ({"messages": [ASK | {"function_call": {"name": "f"}}, ANSWER]}, "has `function_call` though its role is user"),
        ({"messages": [ASK | {"thinking": "hm"}, ANSWER]}, "message 1: has `thinking` though its role is user"),
        ({"messages": [ASK, ANSWER | {"thinking": True}]}, "message 2: `thinking` is not text but true or"),
        ({"messages": [ASK, ANSWER | {"reasoning": ["hm"]}]}, "message 2: `reasoning` is not text but a list; write"),
        ({"messages": [ASK, ANSWER | {"reasoning": "hm", "thinking": "so"}]}, "`reasoning` and `thinking` say differ"),
        ({"messages": [ASK, ANSWER | {"tool_calls": [CALL], "function_call": {"name": "f"}}]}, "`function_call` say"),
        ({"messages": [ASK, ANSWER | {"tool_calls": CALL}]}, "`tool_calls` is not a list of objects (it is an object)"),
        ({"messages": [ASK, ANSWER | {"tool_calls": [3]}]}, "`tool_calls` is not a list of objects (it holds int)"),
        ({"messages": [ASK, ANSWER | {"tool_calls": [{}]}]}, "`tool_calls`: call 1: `name` is not text but null"),
        ({"messages": [ASK, ANSWER | {"tool_calls": [{"type": "custom"}]}]}, "call 1 is of type 'custom'; only functi"),
        ({"messages": [ASK, ANSWER | {"tool_calls": [CALL | {"extra": 1}]}]}, "call 1 has the key 'extra', which is"),
        (called(name=" "), "message 2: `tool_calls`: call 1: `name` is empty; write the function's name"),
        (called(name="f", arguments="{"), "message 2: `tool_calls`: call 1: `arguments`: is not valid JSON (Expecting"),
        (called(name="f", arguments="x = 1"), "call 1: `arguments` is text, not an object; write {…}"),
        (called(name="f", arguments="[1]"), "call 1: `arguments` is a list, not an object; write {…}"),
        (called(name="f", arguments='"{}"'), "call 1: `arguments` is text, not an object; write {…}"),
        (called(name="f", arguments='{"a": 1, "a": 2}'), "call 1: `arguments`: has the key 'a' twice"),
        (called(name="f", arguments='{"a": NaN}'), "call 1: `arguments` holds the number nan, which JSON"),
        (called(name="f", arguments='{"a": "\\ud800"}'), "call 1: `arguments` holds half a character"),
        (called(name="f", parameters={"a": 1}), "call 1 has the key 'parameters', which is not used; use name, argu"),
        ({"messages": [ASK, ANSWER | {"weight": 0.5}]}, "message 2: `weight` is 0.5, and an answer is trained or not"),
        ({"messages": [ASK, ANSWER | {"weight": 2}]}, "message 2: `weight` is 2, and an answer is trained or not"),
        ({"messages": [ASK, ANSWER | {"train": "no"}]}, "message 2: `train` is 'no', and an answer is trained or not"),
        ({"messages": [ASK, ANSWER | {"weight": 1, "train": False}]}, "`weight` and `train` contradict each other"),
        ({"messages": [ASK | {"train": True}, ANSWER]}, "message 1: `train` is to train the role user; only answers"),
        ({"messages": [ASK, ANSWER | {"weight": 0}]}, "no answer is a target: `weight`, `train` or `loss` makes each"),
        ({"messages": [ANSWER, ASK, ANSWER | {"weight": 0}]}, "no answer is a target"),
        ({"messages": [ANSWER]}, "nothing comes before the assistant's answer; put a user message first"),
        ({"messages": []}, "has no assistant message, so no target token; add one or remove the row"),
        ({"messages": [ASK, {"role": "assistant", "content": ""}]}, "has no assistant message, so no target token"),
        ({"messages": [ASK, ANSWER], "tools": {"name": "f"}}, "`tools` is not a list of objects (it is an object)"),
        ({"messages": [ASK, ANSWER], "tools": "hammer"}, "`tools` is not a list of objects (it is text)"),
        ({"messages": [ASK, ANSWER], "tools": [{}]}, "`tools`: function 1: `name` is not text but null"),
        ({"messages": [ASK, ANSWER], "tools": [{"type": "web_search"}]}, "function 1 is of type 'web_search'"),
        ({"messages": [ASK, ANSWER], "tools": [TOOL, {"name": "f", "parameters": 3}]}, "2: `parameters` is int, not"),
        ({"messages": [ASK, ANSWER], "tools": [{"function": '{"name": "f", "a": "\\ud800"}'}]}, "half a character"),
        ({"messages": [ASK, ANSWER], "tools": [{"name": "f", "input_schema": {"a": 1}}]}, "has `input_schema`; call"),
        ({"messages": [ASK, ANSWER], "tools": [TOOL], "functions": [TOOL]}, "has both `tools` and `functions`; leave"),
        ({"messages": [ASK, ANSWER], "tools": ["hammer"]}, "`tools` is not a list of objects (it holds text); write"),
        ({"question": "a", "answer": "b", "tools": "hammer"}, "`tools` is not a list of objects (it is text)"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(row, message):
    assert refused(row).startswith("a.jsonl:7: ") and message in refused(row)


@pytest.mark.parametrize("key", ["role", "content", "weight", "extra", "tool_calls", "function_call"])
def test_a_value_nested_too_deeply_is_refused(key):
    deep: list[object] = []
    for depth in range(990):  # as deep as the JSON of a line can be
        deep = [deep]
        if depth == 70 or depth > 900:
            assert "a.jsonl:7: message 2: " in refused({"messages": [ASK, ANSWER | {key: deep}]})
    if key == "extra":
        assert "`extra` is nested more than 64 levels deep; remove some" in refused(
            {"messages": [ASK, {"role": "assistant", key: deep}]}
        )
