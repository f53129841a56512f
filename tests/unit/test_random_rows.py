"""Any row is a conversation that has all of it, or an error: properties of random rows."""

import contextlib
import csv
import json
import random
from typing import get_args

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from sft.errors import DataError, SettingsError
from sft.rows import forms, look
from sft.rows.conversation import ROLES, Conversation
from sft.rows.files import read_file
from sft.rows.forms import columns, sharegpt
from sft.rows.forms.columns import Columns
from sft.rows.values import is_filled
from sft.settings.kinds import ColumnRole
from sft.settings.load import load

SETTINGS = load(None)


def convert(row):
    return forms.convert(row, "a.jsonl:7", SETTINGS)


WORDS = st.sampled_from(
    ["role", "content", "tool_calls", "function_call", "function", "name", "arguments", "type", "text", "id", "weight",
     "train", "loss", "thinking", "reasoning_content", "tool_call_id", "parameters", "tools", "messages", *ROLES]
)  # fmt: skip
JSON_TEXTS = [
    '{"a": 1}',
    "[]",
    "[1",
    '[{"name": "f"}]',
    '{"name": "\\ud800"}',
    '{"name": "f", "parameters": {"a": NaN}}',
]
TEXTS = st.one_of(WORDS, st.text(max_size=4), st.sampled_from(JSON_TEXTS), st.just("\ud800"))
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(0, 2), st.floats(), TEXTS, st.just(b"x"))
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8
)
FUNCTION = st.fixed_dictionaries(
    {"name": TEXTS}, optional={"arguments": ANYTHING, "parameters": ANYTHING, "extra": ANYTHING}
)
CALLS = st.lists(FUNCTION | st.fixed_dictionaries({"function": FUNCTION | ANYTHING}), max_size=2) | ANYTHING
PARTS = st.lists(st.fixed_dictionaries({"text": TEXTS}, optional={"type": TEXTS}) | TEXTS, max_size=3) | ANYTHING
MARK = st.sampled_from([0, 1, True, False, None, 0.0, 0.5, "1"])
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(ROLES) | ANYTHING},
    optional={"content": st.text(max_size=3) | PARTS, "tool_calls": CALLS, "function_call": FUNCTION | ANYTHING,
              "weight": MARK, "train": MARK, "loss": MARK, "reasoning_content": TEXTS, "name": ANYTHING},
)  # fmt: skip
LIKELY = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=3)},
    optional={"name": st.text(max_size=3), "weight": st.sampled_from([0, 1])},
)
ROWS = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGES | LIKELY, max_size=4) | st.lists(LIKELY, max_size=5) | ANYTHING},
    optional={"tools": CALLS, "functions": CALLS, "question": ANYTHING, "answer": ANYTHING},
)


@given(row=ROWS)
def test_any_row_is_a_conversation_or_an_error_that_names_it(row):
    try:
        found = convert(row)
    except DataError as error:
        event("refused")
        assert str(error).startswith("a.jsonl:7: ") and "\n" not in str(error) and str(error).isprintable()
        return
    assert isinstance(found, Conversation)
    assert found.messages[-1].is_answer and found.messages[-1].is_target and len(found.messages) > 1
    json.dumps([found.as_dicts(), found.tools], ensure_ascii=False, allow_nan=False).encode()
    for message in found.messages:
        assert message.content is not None or message.is_answer
        assert all(is_filled(value) for value in message.keys.values())


SAFE = st.characters(exclude_categories=["Cs", "Cc"])
COLUMN = st.sampled_from([*columns.ROLE_OF, "Question", "\nprompt", "text", "id"])
PAIRS = st.lists(st.lists(st.text(max_size=3), min_size=1, max_size=3), max_size=2)
FROM_VALUE = st.fixed_dictionaries(
    {"from": st.sampled_from([*sharegpt.ROLES, *sharegpt.CALLS, "user"]) | ANYTHING}, optional={"value": PARTS}
)
VALUES = st.text(max_size=3) | st.lists(LIKELY | FROM_VALUE, max_size=3) | PAIRS | CALLS | ANYTHING


@given(row=st.dictionaries(COLUMN, VALUES | VALUES.map(repr), max_size=5))
def test_rows_of_all_forms_are_conversations_or_errors_and_no_column_is_lost(row):
    test_any_row_is_a_conversation_or_an_error_that_names_it.hypothesis.inner_test(row)
    with contextlib.suppress(DataError):
        found = forms.converted(row, "a.jsonl:7", SETTINGS)
        assert not set(found.used) & set(found.unused)
        assert {name for name, value in row.items() if columns.says_something(value)} == {*found.used, *found.unused}


PATHS = st.lists(st.sampled_from(["info", "answers", "text", "0", "1", "role", "question"]), min_size=1, max_size=3)
ROLES_OF_COLUMNS = st.dictionaries(PATHS.map(".".join), st.sampled_from(get_args(ColumnRole)), max_size=3)
INSIDE = st.recursive(
    st.text(max_size=3) | ANYTHING,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(PATHS.map(lambda path: path[0]), inner, max_size=3),
    max_leaves=6,
)


@given(row=st.dictionaries(PATHS.map(lambda path: path[0]) | COLUMN, INSIDE, max_size=4), roles=ROLES_OF_COLUMNS)
def test_parts_of_columns_are_used_or_named_whatever_the_row_holds(row, roles):
    settings = load(None, columns=json.dumps(roles))
    before = repr(row)
    with contextlib.suppress(DataError):
        found = forms.converted(row, "a.jsonl:7", settings)
        texts = json.dumps(found.conversation.as_dicts())
        for name in found.used:
            value = Columns.of(row, "", settings).row[name]
            assert not isinstance(value, str) or json.dumps(value)[1:-1] in texts or value.lstrip()[:1] in '[{"'
    with contextlib.suppress(DataError):
        forms.converted_text(row, "a.jsonl:7", settings)
    with contextlib.suppress(DataError, SettingsError):
        look.check_columns([row], settings)
    assert repr(row) == before


@given(data=st.data())
def test_the_same_turns_are_the_same_conversation_in_every_form(data):
    text = st.text(SAFE, min_size=1, max_size=4).filter(str.strip)
    pairs = data.draw(st.lists(st.tuples(text, text), min_size=1, max_size=3))
    system = data.draw(st.none() | text)
    messages = [{"role": "system", "content": system}] if system else []
    turns = [{"from": "system", "value": system}] if system else []
    for asked, answered in pairs:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        turns += [{"from": "human", "value": asked}, {"from": "gpt", "value": answered}]
    expected = convert({"messages": messages})
    *history, (asked, answered) = pairs
    last = {data.draw(st.sampled_from(columns.NAMES["prompt"])): asked}
    last |= {data.draw(st.sampled_from(columns.NAMES["response"])): answered}
    assert convert(last | {"history": history, "system": system}) == expected
    assert convert(last | {"history": json.dumps(history), "system": system}) == expected
    assert convert({"conversations": turns}) == convert({"messages": turns}) == expected
    assert convert({"conversations": turns[bool(system) :], "system": system}) == expected
    split = convert({"prompt": messages[:-1], "completion": messages[-1:]})
    assert split.as_dicts() == expected.as_dicts() and split.messages[-1].is_target
    assert [message.is_target for message in split.messages if message.role == "assistant"].count(True) == 1


NAMES = st.text(SAFE, min_size=1, max_size=3).filter(str.strip)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(SAFE, max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
SCHEMAS = st.recursive(
    st.sampled_from([{"type": "string"}, {"default": None}, {"enum": [None, 1]}, {"items": {"type": "number"}}]),
    lambda inner: st.fixed_dictionaries({"properties": st.dictionaries(NAMES, inner, max_size=3)}),
    max_leaves=5,
)
OBJECTS = st.dictionaries(NAMES, JSON, max_size=3)
CALL = st.fixed_dictionaries(
    {"type": st.just("function"), "function": st.fixed_dictionaries({"name": NAMES, "arguments": OBJECTS})}
)
TOOL = st.fixed_dictionaries(
    {"type": st.just("function"), "function": st.fixed_dictionaries({"name": NAMES}, optional={"parameters": SCHEMAS})}
)


@st.composite
def turns(draw):
    """Draw the messages of a conversation as a template takes them."""
    messages = [{"role": "user", "content": draw(NAMES)}]
    for _ in range(draw(st.integers(0, 3))):
        role = draw(st.sampled_from(ROLES))
        keys = draw(st.fixed_dictionaries({}, optional={"name": NAMES, "extra": JSON.filter(is_filled)}))
        if role == "assistant" and draw(st.booleans()):
            content = draw(st.none() | st.text(SAFE, max_size=3))
            messages.append(
                {"role": role, "content": content, "tool_calls": draw(st.lists(CALL, min_size=1, max_size=2))}
            )
        else:
            messages.append({"role": role, "content": draw(st.text(SAFE, max_size=3))})
        messages[-1] |= keys
    return [*messages, {"role": "assistant", "content": draw(NAMES)}]


def rewritten(message, chance):
    """Return another way to write a message."""
    found = dict(message)
    if isinstance(found["content"], str) and chance.random() < 0.5:
        at = chance.randint(0, len(found["content"]))
        texts = found["content"][:at], found["content"][at:]
        found["content"] = [chance.choice([text, {"text": text}, {"type": "text", "text": text}]) for text in texts]
    if found["content"] is None and chance.random() < 0.5:
        del found["content"]
    if "tool_calls" in found:
        found["tool_calls"] = [rewritten_call(call, chance) for call in found["tool_calls"]]
        found["tool_calls"] = chance.choice([found["tool_calls"], json.dumps(found["tool_calls"])])
    unfilled = {key: chance.choice([None, "", [], {}, False]) for key in "abc" if chance.random() < 0.5}
    return found | unfilled | chance.choice([{}, {"weight": None}, {"train": None, "audio": None}])


def rewritten_call(call, chance):
    """Return another way to write a call."""
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    function = {"name": name, "arguments": chance.choice([arguments, json.dumps(arguments)])}
    return chance.choice([function, {"function": function}, {"type": "function", **function}, call | {"id": None}])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


# The ways to write a chat come from a seed: hypothesis would take longer to draw each of them than the test takes.
@given(messages=turns(), tools=st.lists(TOOL, max_size=2), seed=st.integers(0, 2**32))
def test_nothing_of_a_chat_is_lost_however_it_is_written(messages, tools, seed, folder):
    chance = random.Random(seed)
    written = [rewritten(message, chance) for message in messages]
    flat = [tool["function"] for tool in tools]
    row = {"messages": written, **chance.choice([{"tools": tools}, {"tools": flat}, {"functions": flat}])}
    assert convert(row).as_dicts() == messages and list(convert(row).tools) == tools
    (folder / "a.jsonl").write_text(json.dumps(row, ensure_ascii=chance.random() < 0.5) + "\n", encoding="utf-8")
    with (folder / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([row, [json.dumps(value) for value in row.values()]])
    for name in ("a.jsonl", "a.csv"):
        ((where, read),) = read_file(folder / name)
        assert forms.convert(read, where, SETTINGS) == convert(row)
