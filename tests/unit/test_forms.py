"""A form of rows is one module: what it recognises is checked before a run and converted in it."""

import json
from types import SimpleNamespace

import pytest

from sft.errors import DataError
from sft.rows import forms, look
from sft.rows.conversation import Message
from sft.rows.forms import messages, prompt_response
from sft.rows.values import checked_text
from sft.settings.load import load

ROW = {"question": "1 + 1?", "answer": "2"}
CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}


@pytest.fixture
def settings():
    return load(None)


def test_a_row_is_recognised_by_its_columns(settings):
    assert forms.form_of(ROW, settings) is prompt_response
    assert forms.form_of(CHAT, settings) is forms.form_of(ROW | CHAT, settings) is messages
    assert forms.form_of(ROW | {"messages": None}, settings) is prompt_response
    assert forms.form_of({"text": "x"}, settings) is prompt_response  # which says what is missing


def test_every_form_gives_a_conversation(settings):
    pairs = [("user", "hi"), ("assistant", "hello")]
    assert forms.convert(CHAT, "a:1", settings).as_dicts() == [{"role": r, "content": c} for r, c in pairs]
    assert forms.convert(ROW, "a:1", settings).messages == (Message("user", "1 + 1?"), Message("assistant", "2"))


def test_a_system_prompt_precedes_a_conversation_without_one():
    settings = load(None, system_prompt="Be short.")
    own = {"messages": [{"role": "system", "content": "Be long."}, *CHAT["messages"]]}
    assert forms.convert(ROW, "a:1", settings).messages[0] == Message("system", "Be short.")
    assert forms.convert(own, "a:1", settings).messages[0] == Message("system", "Be long.")


def test_what_follows_the_last_answer_is_left_out(settings):
    asked = {"messages": [*CHAT["messages"], {"role": "user", "content": "and?"}]}
    assert forms.convert(asked, "a:1", settings) == forms.convert(CHAT, "a:1", settings)


def test_an_answer_to_nothing_is_refused(settings):
    alone = {"messages": [{"role": "assistant", "content": "hello"}]}
    with pytest.raises(DataError, match="a:1: nothing comes before the assistant's answer; put a user message first"):
        forms.convert(alone, "a:1", settings)


def test_a_form_is_added_by_one_line(settings, tmp_path, monkeypatch):
    def convert(row, where, settings):
        told, done = (checked_text(row[column], where, f"column {column!r}") for column in ("instruction", "output"))
        return [Message("user", told), Message("assistant", done)]

    form = SimpleNamespace(columns=lambda settings: ("instruction", "output"), convert=convert)
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"instruction": "add 1 and 1", "output": "2"}) + "\n")
    with pytest.raises(DataError, match="has no column 'question' but instruction, output"):
        forms.convert(json.loads(path.read_text()), "a:1", settings)
    monkeypatch.setattr(forms, "FORMS", (form, *forms.FORMS))
    look.check_first_rows(path, settings)
    assert forms.convert(json.loads(path.read_text()), "a:1", settings).messages[1] == Message("assistant", "2")
    path.write_text(json.dumps({"instruction": "add 1 and 1", "output": 2}) + "\n")
    with pytest.raises(DataError, match=r"train.jsonl:1: column 'output' is not text but int; write a string"):
        look.check_first_rows(path, settings)
