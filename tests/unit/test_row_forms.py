"""Rows as the users of other trainers have them: the same conversation as the same content in `messages`."""

import csv
import json

import pytest

from sft.errors import DataError, SettingsError
from sft.host.rows.columns import columns
from sft.rows import forms, look
from sft.rows.files import read_file
from sft.run.records import Split
from sft.settings.load import load

SYSTEM, ASK, ANSWER = "Answer in French.", "The colour of snow?", "Blanc"
EARLIER, BEFORE = "The colour of blood?", "Rouge"
WEATHER = {"name": "weather", "description": "of a town", "parameters": {"type": "object", "properties": {}}}
CALL = {"name": "weather", "arguments": {"town": "Oslo"}}


def convert(row, **settings):
    return forms.convert(row, "a.jsonl:7", load(None, **settings))


def chat(*turns, **columns):
    """Return the conversation of a row with `messages`: (role, content) each."""
    messages = [{"role": role, "content": content} for role, content in turns]
    return convert({"messages": messages, **columns})


def refused(row, **settings):
    with pytest.raises(DataError) as caught:
        convert(row, **settings)
    return str(caught.value)


ONE = chat(("user", ASK), ("assistant", ANSWER))
USER, ASSISTANT = {"role": "user", "content": ASK}, {"role": "assistant", "content": ANSWER}
HUMAN, GPT = {"from": "human", "value": ASK}, {"from": "gpt", "value": ANSWER}


@pytest.mark.parametrize("prompt", ["prompt", "question", "instruction", "query", "Question", "input"])
@pytest.mark.parametrize("response", ["response", "answer", "output", "completion", "generation", "Answer"])
def test_a_prompt_and_its_response_have_many_names(prompt, response):
    assert convert({"id": 7, prompt: ASK, response: ANSWER}) == ONE


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [HUMAN, GPT]},
        {"messages": [HUMAN, GPT]},
        {"conversations": [USER, ASSISTANT]},
        {"conversation": [HUMAN | {"from": "user"}, GPT | {"from": "assistant"}]},
        {"conversations": [HUMAN | {"from": "Human"}, GPT | {"from": "GPT"}]},
        {"conversations": [HUMAN, GPT | {"from": "chatbot"}]},
        {"messages": [HUMAN | {"role": None}, GPT | {"content": ""}]},
        {"messages": [USER, ASSISTANT | {"role": "model"}]},
        {"messages": {"role": ["user", "assistant"], "content": [ASK, ANSWER]}},
        {"conversations": {"from": ["human", "gpt"], "value": [ASK, ANSWER], "weight": [None, 1.0]}},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"prompt": json.dumps([USER]), "completion": json.dumps([ASSISTANT])},
        {"prompt": [HUMAN], "completion": [GPT]},
        {"prompt": [USER], "completion": ANSWER},
        {"instruction": ASK, "input": "", "output": ANSWER, "system": "", "history": []},
        {"instruction": "", "input": ASK, "output": ANSWER, "history": None},
        {"messages": [USER, ASSISTANT], "prompt": ASK, "response": ANSWER},
        {"messages": None, "conversations": [HUMAN, GPT]},
        {"messages": [USER, ASSISTANT], "conversations": [USER, ASSISTANT]},
    ],
)
def test_one_turn_is_the_same_in_every_form(row, tmp_path):
    assert convert(row) == ONE
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        values = [json.dumps(value) if isinstance(value, (list, dict)) else value for value in row.values()]
        csv.writer(file).writerows([row, values])
    ((where, read),) = read_file(tmp_path / "a.csv")
    assert forms.convert(read, where, load(None)) == ONE


def test_the_input_of_an_alpaca_row_follows_the_instruction_on_a_new_line():
    expected = chat(("user", "Translate.\nWhite"), ("assistant", ANSWER))
    assert convert({"instruction": "Translate.", "input": "White", "output": ANSWER}) == expected
    assert convert({"instruction": "Translate.", "context": "White", "response": ANSWER}) == expected
    assert convert({"article": "White", "question": "Translate.", "answer": ANSWER}) == expected
    named = {"PROMPT_COLUMN": "instruction", "RESPONSE_COLUMN": "output"}
    named = {name.lower(): value for name, value in named.items()}
    assert convert({"instruction": "Translate.", "input": "White", "output": ANSWER}, **named) == expected


def test_system_and_history_of_a_row_come_first():
    expected = chat(("system", SYSTEM), ("user", EARLIER), ("assistant", BEFORE), ("user", ASK), ("assistant", ANSWER))
    row = {"instruction": ASK, "output": ANSWER, "system": SYSTEM}
    assert convert(row | {"history": [[EARLIER, BEFORE]]}) == expected
    assert convert(row | {"history": json.dumps([[EARLIER, BEFORE]])}) == expected
    assert convert(row | {"history": [HUMAN | {"value": EARLIER}, GPT | {"value": BEFORE}]}) == expected
    assert all(message.is_target for message in expected.messages)  # also the answer in the history
    chatted = {"conversations": [HUMAN, GPT], "system": SYSTEM}
    assert convert(chatted) == convert(chatted | {"conversations": [{"from": "system", "value": SYSTEM}, HUMAN, GPT]})
    assert convert(chatted) == convert(chatted | {"conversations": [{"from": "system", "value": ""}, HUMAN, GPT]})
    assert convert(chatted, system_prompt="Be brief.") == chat(("system", SYSTEM), ("user", ASK), ("assistant", ANSWER))


def test_calls_and_results_of_sharegpt_are_those_of_openai():
    turns = [
        HUMAN,
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": "4 C"},
        GPT,
    ]
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]}
    expected = convert({"messages": [USER, call, {"role": "tool", "content": "4 C"}, ASSISTANT], "tools": [WEATHER]})
    assert convert({"conversations": turns, "tools": json.dumps([WEATHER])}) == expected
    turns[1] = {"role": "tool_call", "content": json.dumps([CALL])}
    turns[2] = {"role": "tool_response", "content": "4 C"}
    assert convert({"messages": turns, "functions": [WEATHER]}) == expected
    system = {"from": "system", "value": 'You may call <tools>[{"name": "weather"}]</tools>.'}
    assert "the system message has the functions in `tools` already" in refused(
        {"conversations": [system, HUMAN, GPT], "tools": [WEATHER]}
    )
    assert "but its text is not JSON" in refused({"conversations": [HUMAN, GPT | {"from": "function_call"}]})


def test_the_answers_in_a_prompt_of_messages_are_context():
    prompt = [{"role": "user", "content": EARLIER}, {"role": "assistant", "content": BEFORE}, USER]
    found = convert({"prompt": prompt, "completion": [ASSISTANT]})
    assert [message.content for message in found.messages if message.role == "assistant" and message.is_target] == [
        ANSWER
    ]
    assert found.as_dicts() == [*prompt, ASSISTANT]


def test_the_input_of_a_row_without_a_prompt_may_be_messages():
    assert convert({"input": [USER], "output": ANSWER, "category": "colours"}) == ONE
    assert "to which the column 'context' cannot be added" in refused(
        {"input": [USER], "context": "x", "output": ANSWER}
    )


def test_a_question_at_the_end_of_messages_is_not_parted_from_its_answer():
    row = {"messages": [{"role": "user", "content": EARLIER}, {"role": "assistant", "content": BEFORE}, USER]}
    row |= {"response": ANSWER}
    assert refused(row) == (
        "a.jsonl:7: `messages` ends with a question, and `response` could be the answer to it; "
        'set COLUMNS={"messages": "prompt"} to train it, or COLUMNS={"response": "unused"}'
    )
    whole = convert(row, columns='{"messages": "prompt"}')
    assert [(message.content, message.is_target) for message in whole.messages][1:] == [
        (BEFORE, False), (ASK, True), (ANSWER, True),
    ]  # fmt: skip
    assert convert(row, columns='{"response": "unused"}').left_out == 1


def test_a_chat_as_python_prints_it_is_not_a_text():
    for row in ({"prompt": str([USER]), "response": ANSWER}, {"prompt": ASK, "response": str([ASSISTANT])}):
        assert "holds messages as Python prints them, which is not JSON; write them with json.dumps" in refused(row)


def test_a_text_that_only_looks_like_a_list_stays_a_text():
    assert convert({"prompt": "[1, 2] sorted?", "completion": "[1, 2]"}).messages[1].content == "[1, 2]"
    assert convert({"prompt": "[{}]", "completion": "[]"}).messages[0].content == "[{}]"
    for answer in ('{"name": "Lea", "role": "guide"}', '[{"role": "guide", "text": "Lea"}]', '{"role": "user"}'):
        assert convert({"prompt": "Lea?", "completion": answer}).messages[1].content == answer


def test_the_settings_name_columns():
    row = {"Frage": ASK, "Antwort": ANSWER, "Rolle": SYSTEM, "Hinweis": "One word."}
    roles = {"Frage": "prompt", "Antwort": "response", "Rolle": "system", "Hinweis": "input"}
    expected = chat(("system", SYSTEM), ("user", f"{ASK}\nOne word."), ("assistant", ANSWER))
    assert convert(row, columns=json.dumps(roles)) == expected
    assert convert({"x": [USER, ASSISTANT], "y": [WEATHER]}, columns='{"x": "messages", "y": "tools"}').tools
    both = {"messages": [USER, {"role": "assistant", "content": "White"}], "a": ASK, "b": ANSWER}
    assert convert(both, prompt_column="a", response_column="b") == ONE
    assert convert({"query": ASK, "question": "?", "answer": ANSWER}, columns='{"question": "unused"}') == ONE
    assert convert({"ask": ASK, "question": "?", "output": ANSWER}, prompt_column="ask") == ONE
    message = r"""COLUMNS=.*gives 'a' the role 'target', which is none of prompt, response, .*unused; correct it"""
    with pytest.raises(SettingsError, match=message):
        load(None, columns='{"a": "target"}')


def test_a_role_that_a_row_does_not_use_is_refused():
    with pytest.raises(DataError) as caught:
        convert({"messages": [USER, ASSISTANT], "hint": "White"}, columns='{"hint": "input"}')
    what = "`hint` has the role input, but the row is read from `messages` without it; take the role from it, or leave"
    assert what in str(caught.value)
    assert convert({"messages": [USER, ASSISTANT], "hint": ""}, columns='{"hint": "input"}') == ONE


def test_the_width_of_the_terminal_is_not_a_setting(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert load(None).columns == "{}" and not load(None).is_explicit("columns")
    monkeypatch.setenv("COLUMNS", '{"a": "prompt"}')
    assert load(None).columns == '{"a": "prompt"}'


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"messages": [USER, ASSISTANT], "prompt": ASK, "response": "White"},
            "holds two conversations, in `messages` and in `prompt`, `response`, which are not the same; "
            'name the one to train: COLUMNS={"messages": "messages"} or COLUMNS={"prompt": "prompt"}',
        ),
        (
            {"question": ASK, "prompt": "Hi", "answer": ANSWER},
            "the columns `question` and `prompt` could both be the prompt, and are not the same; name one, as in "
            'COLUMNS={"question": "prompt"}',
        ),
        ({"conversations": [HUMAN, GPT], "messages": [USER]}, "could both be the messages"),
        ({"conversations": [HUMAN | {"role": "user"}, GPT]}, "message 1: has both `from` and `role`; leave one"),
        ({"conversations": [HUMAN | {"content": "x"}, GPT]}, "message 1: has both `value` and `content`; leave one"),
        ({"conversations": [HUMAN, {"value": "x"}]}, "message 2: has no `role`"),
        ({"conversations": [HUMAN, GPT | {"from": "narrator"}]}, "message 2: role 'narrator' is unknown"),
        ({"conversations": [HUMAN, GPT | {"value": 4}]}, "message 2: `content` is not text but int"),
        ({"messages": [USER, {"role": "tool", "name": ["f"], "content": "3"}, ASSISTANT]}, "message 2: `name` is not"),
        ({"conversations": [HUMAN]}, "has no assistant message, so no target token"),
        ({"prompt": [USER], "completion": [USER]}, "column 'completion' has no assistant message"),
        ({"prompt": [USER], "input": "x", "completion": "y"}, "is a list of messages, to which the column 'input'"),
        ({"instruction": ASK, "output": ANSWER, "history": "x"}, "column 'history' is not a list but text"),
        ({"instruction": ASK, "output": ANSWER, "history": [["a"]]}, "turn 1 of column 'history' is not a pair"),
        ({"instruction": ASK, "output": ANSWER, "history": [["a", 1]]}, "turn 1 of column 'history' is not text"),
        ({"instruction": ASK, "output": ANSWER, "input": 3}, "column 'input' is not text but int"),
        ({"instruction": ASK, "output": ["a", "b"]}, "column 'output' is not text but a list"),
        ({"instruction": ASK, "output": " "}, "column 'output' is empty, so no target token"),
        ({"messages": [{"role": "system", "content": "x"}, USER, ASSISTANT], "system": "y"}, "`system` too"),
        ({"prompt": ASK, "reply": ANSWER}, "has no column 'answer' but prompt, reply; set RESPONSE_COLUMN"),
    ],
)
def test_what_cannot_be_read_is_named(row, message, tmp_path):
    assert refused(row).startswith("a.jsonl:7: ") and message in refused(row) and refused(row).isprintable()
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises((DataError, SettingsError)):
        look.check_first_rows(path, load(None))


GOOD = {"prompt": ASK, "response": ANSWER}


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        (
            {"prompt": ASK, "chosen": ANSWER, "rejected": "Noir"},
            {"columns": '{"chosen": "response"}'},
            "`chosen` and `rejected` are a preference, and only good answers are trained; name the good one: "
            'COLUMNS={"chosen": "response"}',
        ),
        (
            {"chosen": [USER, ASSISTANT], "rejected": [USER, ASSISTANT]},
            {"columns": '{"chosen": "messages"}'},
            'name the good one: COLUMNS={"chosen": "messages"}',
        ),
        (
            GOOD | {"rejected_response": "Noir"},
            {"columns": '{"rejected_response": "unused"}'},
            "`rejected_response` is a preference, and only good answers are trained; leave out what is not: "
            'COLUMNS={"rejected_response": "unused"}',
        ),
        (
            {"conversations": [HUMAN], "chosen": GPT, "rejected": GPT},
            {"columns": '{"conversations": "prompt", "chosen": "response"}'},
            "`chosen` and `rejected` are a preference",
        ),
        (GOOD | {"label": False}, {"columns": '{"label": "unused"}'}, "`label` says whether the answer is good"),
        (GOOD | {"Label": "true"}, {"columns": '{"Label": "unused"}'}, "`Label` says whether the answer is good"),
        (GOOD | {"correct": 0}, {"columns": '{"correct": "unused"}'}, "`correct` says whether the answer is good"),
        (GOOD | {"labels": [True, False]}, {"columns": '{"labels": "unused"}'}, "`labels` says whether the answer"),
        (GOOD | {"weight": 0}, {"columns": '{"weight": "unused"}'}, "`weight` is 0, which says that the row is"),
        (GOOD | {"Train": False}, {"columns": '{"Train": "unused"}'}, "`Train` is False"),
        (GOOD | {"loss_mask": [1, 0]}, {"columns": '{"loss_mask": "unused"}'}, '"weight": 0 into'),
        (
            GOOD | {"A": "Blanc", "b": "Noir", "C": None},
            {"columns": '{"A": "unused", "b": "unused"}'},
            "`A`, `b` belong to the question, which does not have them; write them into the question",
        ),
        (
            GOOD | {"option 1": "x", "option 2": 2},
            {"columns": '{"option 1": "unused", "option 2": "unused"}'},
            "belong",
        ),
        (GOOD | {"options": [3, 4]}, {"columns": '{"options": "unused"}'}, "`options` belongs to the question"),
        (GOOD | {"images": ["a.png"]}, {"columns": '{"images": "unused"}'}, "`images` is not text, and only text is"),
        ({"messages": [USER, ASSISTANT], "audio": {"path": "a"}}, {"columns": '{"audio": "unused"}'}, "not text"),
        (GOOD | {"image": "a.png", "video": "b"}, {"columns": '{"image": "unused", "video": "unused"}'}, "are not"),
    ],
)
def test_preferences_votes_and_pictures_are_refused_until_the_settings_say_what_to_do(row, settings, message):
    assert refused(row).startswith("a.jsonl:7: ") and message in refused(row)
    assert convert(row, **settings) == ONE


def test_the_first_look_says_how_the_only_text_of_a_row_is_trained(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"content": "int main() {}", "lang": "C", "stars": 3}) + "\n")
    with pytest.raises(SettingsError) as caught:
        look.check_first_rows(path, load(None))
    assert str(caught.value).endswith(
        'but content, lang, stars; if `content` is a text to train on as it is, set COLUMNS={"content": "text"}'
    )
    look.check_first_rows(path, load(None, columns='{"content": "text"}'))


@pytest.mark.parametrize(
    ("rows", "remedy"),
    [
        ([{"role": "user", "content": ASK}, {"role": "assistant", "content": ANSWER}],
         'these are messages: write every conversation as one row, {"messages": [{"role": …, "content": …}, …]}'),
        ([{"role": "user", "text": ASK}, {"role": "assistant", "text": ANSWER}],
         ', …]}, or set COLUMNS={"text": "text"} to train each as a text'),
        ([{"custom_id": "r1", "method": "POST", "body": {"messages": [USER, ASSISTANT]}}],
         'if it is `body.messages`, set COLUMNS={"body.messages": "messages"}'),
    ],
)  # fmt: skip
def test_the_first_look_does_not_take_messages_for_prompts(rows, remedy, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SettingsError) as caught:
        look.check_first_rows(path, load(None))
    assert str(caught.value).endswith(remedy)


def test_the_first_look_says_that_rows_are_preferences(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"prompt": ASK, "chosen": ANSWER, "rejected": "Noir"}) + "\n")
    with pytest.raises(DataError, match=r"train.jsonl:1: `chosen` and `rejected` are a preference"):
        look.check_first_rows(path, load(None))
    look.check_first_rows(path, load(None, response_column="chosen"))


@pytest.mark.parametrize(
    "more",
    [
        {"label": "maths"},
        {"label": 3},
        {"label": None},
        {"labels": [3, 1]},
        {"labels": []},
        {"images": []},
        {"correct": True},
        {"image": ""},
        {"weight": 0.5},
        {"A": "one letter is no choice"},
        {"A": "snow", "B": "colour"},
        {"weight": 1, "train": True, "loss": 2.31, "loss_mask": [1, 1]},
    ],
)
def test_what_only_has_the_name_of_a_vote_or_a_picture_is_not_one(more):
    assert convert(GOOD | more) == ONE


def test_columns_that_are_not_used_are_known():
    row = GOOD | {"id": 7, "notes": "a hint", "same": ANSWER, "empty": " ", "none": None, "off": False}
    found = forms.converted(row, "a.jsonl:7", load(None))
    assert (found.used, found.unused) == (("prompt", "response"), ("id", "notes", "same"))
    assert refused(row, use_columns="refuse") == (
        "a.jsonl:7: `notes` is not used; give it a role with COLUMNS, leave it out with "
        'COLUMNS={"notes": "unused"}, or set USE_COLUMNS=warn'
    )
    left_out = {"use_columns": "refuse", "columns": '{"notes": "unused", "id": "unused"}'}
    assert forms.converted(row, "a.jsonl:7", load(None, **left_out)).unused == ("same",)
    full = {"instruction": ASK, "input": "x", "output": ANSWER, "system": SYSTEM, "history": [["a", "b"]]}
    assert forms.converted(full | {"tools": [WEATHER]}, "", load(None, use_columns="refuse")).unused == ()


def test_the_data_line_names_columns():
    splits = [
        Split(rows=3, tokens=9, target_tokens=3, longest=3, cut_rows=0, used_columns=used, unused_columns=unused)
        for used, unused in (
            ({'["a", "b"]': 2, '["a"]': 1}, {"id": 3, "\x1b[1m": 1}),
            ({'["a", "b"]': 1500}, {"id": 1500}),
        )
    ]
    assert list(columns(splits[1])) == ["a, b", "not used: id (1,500 rows); COLUMNS can give them roles"]
    assert list(columns(*splits)) == [
        "a, b (1,502 rows); a (1 row)",
        "not used: id (1,503 rows), \\x1b[1m (1 row); COLUMNS can give them roles",
    ]
    assert list(columns(Split(rows=3, tokens=9, target_tokens=3, longest=3, cut_rows=0))) == []


@pytest.mark.parametrize(
    ("row", "roles"),
    [
        (
            {"info": {"ask": ASK, "reply": {"text": [ANSWER, "Weiss"]}}},
            {"info.ask": "prompt", "info.reply.text.0": "response"},
        ),
        ({"question": ASK, "answers": json.dumps({"text": [ANSWER]})}, {"answers.text": "response"}),
        ({"question": ASK, "a.b": ANSWER, "a": {"b": "Noir"}}, {"a.b": "response", "a": "unused"}),
        ({"chats": {"good": [USER, ASSISTANT]}}, {"chats.good": "messages"}),
    ],
)  # fmt: skip
def test_a_part_of_a_column_has_a_role(row, roles):
    assert convert(row, columns=json.dumps(roles)) == ONE


def test_what_is_left_of_a_column_is_not_lost_unnoticed():
    row = {"question": ASK, "info": {"answer": ANSWER, "hint": "Look up."}}
    found = forms.converted(row, "a:1", load(None, columns='{"info.answer": "response"}'))
    assert (found.used, found.unused) == (("question", "info.answer"), ("info",))
    row["info"] = {"answer": ANSWER}
    assert forms.converted(row, "a:1", load(None, columns='{"info.answer": "response"}')).unused == ()


def test_a_part_that_a_row_does_not_have_is_named():
    named = {"columns": '{"info.answer": "response"}'}
    assert "column 'info.answer' is null, so no target token" in refused({"question": ASK, "info": {}}, **named)
    assert "has no column 'info.answer' but question; set RESPONSE_COLUMN" in refused({"question": ASK}, **named)


TEXT = "Once there was a fox."


@pytest.mark.parametrize(
    ("row", "given", "kind"),
    [
        ({"text": TEXT}, {}, "texts"),
        ({"Text": TEXT, "id": 3, "url": "x", "title": "Foxes", "context": "animals"}, {}, "texts"),
        ({"body": TEXT}, {"columns": '{"body": "text"}'}, "texts"),
        ({"body": TEXT, "question": "1?", "answer": "1"}, {"columns": '{"body": "text"}'}, "texts"),
        ({"text": ""}, {}, "texts"),
        ({"text": TEXT, "question": " ", "answer": None}, {}, "texts"),
        ({"text": TEXT, "instruction": "1?", "output": "1"}, {}, "conversations"),
        ({"text": TEXT, "messages": [USER, ASSISTANT]}, {}, "conversations"),
        ({"text": "1?", "reply": "1"}, {"columns": '{"text": "prompt", "reply": "response"}'}, "conversations"),
        ({"text": "1?", "reply": "1"}, {"prompt_column": "text", "response_column": "reply"}, "conversations"),
        ({"text": TEXT, "question": "1?"}, {}, None),
        ({"text": TEXT, "answer": "1"}, {}, None),
        ({"text": TEXT}, {"prompt_column": "ask"}, None),
        ({"text": "", "question": "", "answer": ""}, {}, None),
        ({"id": 3}, {}, None),
        ({"text": TEXT, "role": "prompter", "parent_id": None, "message_id": "x"}, {}, None),
        ({"text": TEXT, "role": "user"}, {}, None),
        ({"text": TEXT, "speaker": "Assistant", "turn": 2}, {}, None),
        ({"text": TEXT, "role": "user"}, {"columns": '{"text": "text"}'}, "texts"),
        ({"text": TEXT, "author": "Human", "role": "editor"}, {}, "texts"),
    ],
)
def test_a_row_is_a_text_if_it_has_nothing_else_to_train(row, given, kind):
    assert forms.kind_of([("", DataError("not read")), ("", row)], load(None, **given)) == kind


def test_a_text_is_kept_as_it_is_and_its_other_columns_are_named():
    found = forms.converted_text({"text": f" {TEXT}\n", "id": 3, "notes": "x"}, "a.jsonl:7", load(None))
    assert (found.text, found.used, found.unused) == (f" {TEXT}\n", ("text",), ("id", "notes"))
    assert forms.converted_text({"text": "\n", "id": 3}, "a.jsonl:7", load(None)).text == ""
    with pytest.raises(DataError, match="`notes` is not used"):
        forms.converted_text({"text": TEXT, "notes": "x"}, "a.jsonl:7", load(None, use_columns="refuse"))
    with pytest.raises(DataError, match="says whether the answer is good"):
        forms.converted_text({"text": TEXT, "label": 0}, "a.jsonl:7", load(None))
    for column in ("label", "sentiment", "code", "Summary"):
        with pytest.raises(DataError, match=f"has `text` and `{column}`, which could be the response to it"):
            forms.converted_text({"text": TEXT, column: "x"}, "a.jsonl:7", load(None))
        left_out = load(None, columns=json.dumps({column: "unused"}))
        assert forms.converted_text({"text": TEXT, column: "x"}, "a.jsonl:7", left_out).text == TEXT


def test_alpacas_text_says_nothing_that_is_not_used():
    row = {"instruction": "1 + 1?", "output": "2", "text": "Below is an instruction.\n1 + 1?\n### Response:\n2"}
    assert forms.converted(row, "a.jsonl:7", load(None, use_columns="refuse")).unused == ("text",)
    with pytest.raises(DataError, match="`text` is not used"):
        forms.converted(row | {"text": "Something else."}, "a.jsonl:7", load(None, use_columns="refuse"))


def test_a_column_is_the_reasoning_of_an_answer():
    row, named = (
        {"question": ASK, "thoughts": "It is cold.", "answer": ANSWER},
        {"columns": '{"thoughts": "reasoning"}'},
    )
    expected = {"messages": [USER, ASSISTANT | {"reasoning_content": "It is cold."}]}
    assert convert(row, **named) == convert(expected)
    assert convert(row | {"thoughts": ["It is cold."], "answer": [ASSISTANT]}, **named) == convert(expected)
    assert convert(row | {"thoughts": ""}, **named) == ONE
    for answer in ("<think>Snow.</think>Blanc", [ASSISTANT, ASSISTANT]):
        assert "the reasoning in column 'thoughts' cannot be added" in refused(row | {"answer": answer}, **named)
    assert "`thoughts` has the role reasoning, but" in refused(expected | {"thoughts": "It is cold."}, **named)
