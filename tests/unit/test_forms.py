"""A form of rows is one module: what it recognises is checked before a run and converted in it."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from sft.errors import DataError
from sft.rows import forms, look
from sft.rows.conversation import Message
from sft.rows.files import read_file
from sft.rows.forms import messages, prompt_response
from sft.rows.forms.columns import Columns
from sft.rows.values import checked_text
from sft.settings.load import load

ROW = {"question": "1 + 1?", "answer": "2"}
CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}


@pytest.fixture
def settings():
    return load(None)


def test_a_row_is_recognised_by_its_columns(settings):
    def form_of(row):
        return list(forms.forms_of(Columns.of(row, "a:1", settings)))

    assert form_of(ROW) == form_of(ROW | {"messages": None}) == [prompt_response]
    assert form_of(CHAT) == form_of(CHAT | {"question": "hi"}) == [messages]
    assert form_of({"text": "x"}) == []


def test_every_form_gives_a_conversation(settings):
    pairs = [("user", "hi"), ("assistant", "hello")]
    assert forms.convert(CHAT, "a:1", settings).as_dicts() == [{"role": r, "content": c} for r, c in pairs]
    assert forms.convert(ROW, "a:1", settings).messages == (Message("user", "1 + 1?"), Message("assistant", "2"))


def test_a_system_prompt_precedes_a_conversation_without_one():
    settings = load(None, system_prompt="Be short.")
    own = {"messages": [{"role": "system", "content": "Be long."}, *CHAT["messages"]]}
    assert forms.convert(ROW, "a:1", settings).messages[0] == Message("system", "Be short.")
    assert forms.convert(own, "a:1", settings).messages[0] == Message("system", "Be long.")
    empty = {"role": "system", "content": " "}  # of exporters that write one before every chat
    late = {"role": "system", "content": "The chat has ended."}  # left out with all that follows the last answer
    for chat in ([empty, *CHAT["messages"]], [*CHAT["messages"], late]):
        expected = (Message("system", "Be short."), *forms.convert(CHAT, "a:1", load(None)).messages)
        assert forms.convert({"messages": chat}, "a:1", settings).messages == expected
    assert forms.convert({"messages": [empty, *CHAT["messages"]]}, "a:1", load(None)).messages[0].content == " "


def test_what_follows_the_last_answer_is_left_out(settings):
    asked = {"messages": [*CHAT["messages"], {"role": "user", "content": "and?"}]}
    assert forms.convert(asked, "a:1", settings) == forms.convert(CHAT, "a:1", settings)


def test_an_answer_to_nothing_is_refused(settings):
    alone = {"messages": [{"role": "assistant", "content": "hello"}]}
    with pytest.raises(DataError, match="a:1: nothing comes before the assistant's answer; put a user message first"):
        forms.convert(alone, "a:1", settings)


def test_a_form_is_added_by_one_line(settings, tmp_path, monkeypatch):
    def convert(columns):
        told, done = (checked_text(columns.row[name], columns.where, f"column {name!r}") for name in ("task", "done"))
        return [Message("user", told), Message("assistant", done)]

    class Form(SimpleNamespace):
        __hash__ = object.__hash__

    form = Form(used=lambda columns: [name for name in columns.row if name in ("task", "done")], convert=convert)
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"task": "add 1 and 1", "done": "2"}) + "\n")
    with pytest.raises(DataError, match="has no column 'question' but task, done"):
        forms.convert(json.loads(path.read_text()), "a:1", settings)
    monkeypatch.setattr(forms, "FORMS", (form, *forms.FORMS))
    look.check_first_rows(path, settings)
    assert forms.convert(json.loads(path.read_text()), "a:1", settings).messages[1] == Message("assistant", "2")
    path.write_text(json.dumps({"task": "add 1 and 1", "done": 2}) + "\n")
    with pytest.raises(DataError, match=r"train.jsonl:1: column 'done' is not text but int; write a string"):
        look.check_first_rows(path, settings)


CALL = {"id": "c00000001", "type": "function", "function": {"name": "get_weather", "arguments": {"town": "Oslo"}}}
AS_TEXT = {"id": "c00000001", "type": "function", "function": {"name": "get_weather", "arguments": '{"town": "Oslo"}'}}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}


def of(role, content, **keys):
    return {"role": role, "content": content, **keys}


HI, HELLO = of("user", "Hi"), of("assistant", "Hello")


# Rows that people have, and what of them is a conversation: None stands for the whole row as it is.
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([of("assistant", "Welcome!"), HI, HELLO], None),
        ([HI, of("assistant", "One."), of("assistant", "Two.")], None),
        ([of("system", "You tell jokes."), of("assistant", "Knock knock.")], None),
        ([HI, of("user", "there?"), HELLO], None),
        ([of("developer", "Be brief."), HI, HELLO], None),
        ([HI, of("function", "4", name="add"), HELLO], None),
        ([HI, of("assistant", "add(2,2)"), of("ipython", "4"), HELLO], None),
        ([HI | {"name": "Lea"}, HELLO], None),
        ([HI, HELLO | {"reasoning_content": "two and two are four"}], None),
        ([of("user", [{"type": "text", "text": "H"}, {"text": "i"}]), HELLO], [HI, HELLO]),
        ([HI, HELLO, HI, of("assistant", "")], [HI, HELLO]),
        ([HI, of("assistant", ""), HI, HELLO], None),
        ([HI, HELLO | {"train": False}, HI, HELLO | {"train": True}], [HI, HELLO, HI, HELLO]),
        *(
            (
                [HI, of("assistant", content, tool_calls=[AS_TEXT]), of("tool", "4 C", tool_call_id="c0"), HELLO],
                [HI, of("assistant", content, tool_calls=[CALL]), of("tool", "4 C", tool_call_id="c0"), HELLO],
            )
            for content in (None, "", "I look it up.")
        ),
        ([HI, of("assistant", None, tool_calls=[AS_TEXT])], [HI, of("assistant", None, tool_calls=[CALL])]),
    ],
)  # fmt: skip
def test_a_chat_that_people_have_is_read(written, expected, settings, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"messages": written, "tools": [TOOL]}) + "\n")
    look.check_first_rows(path, settings)
    ((where, row),) = read_file(path)
    found = forms.convert(row, where, settings)
    assert (found.as_dicts(), found.tools) == (expected or written, (TOOL,))


def test_the_first_look_names_every_row_that_the_run_would_refuse(settings, tmp_path):
    path = tmp_path / "train.jsonl"
    wrong = [HI, HELLO | {"tool_calls": [AS_TEXT | {"function": {"name": "f", "arguments": "{"}}]}]
    lines = [json.dumps({"messages": messages}) for messages in ([HI, HELLO], wrong, [HI, HELLO | {"weight": 0.5}])]
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        look.check_first_rows(path, settings)
    assert [line.split("; ")[0] for line in str(caught.value).splitlines()] == [
        f"{path}:2: message 2: `tool_calls`: call 1: `arguments`: is not valid JSON "
        "(Expecting property name enclosed in double quotes at column 2)",
        f"{path}:3: message 2: `weight` is 0.5, and an answer is trained or not, nothing between",
    ]


def test_every_row_in_the_documentation_is_one(settings):
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    rows = [json.loads(block) for block in re.findall("```json\n(.*?)```", text, re.DOTALL)]
    assert len([forms.words(row, "data.md", settings) for row in rows]) == 7
