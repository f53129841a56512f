"""From rows to tokens: only the response is a target, and nothing is doubled, lost or silent."""

import copy

import pytest

from sft.errors import DataError
from sft.rows.bad_rows import BadRows
from sft.settings.load import load
from sft.trainer.data import chat_template, probe, workers
from sft.trainer.data.rows import NO_TARGET, TOO_LONG, Dropped
from sft.trainer.data.template_variables import DATE_STRING
from sft.trainer.data.tokenise import Tokeniser

ROW = {"question": "Ana has 3 eggs.", "answer": "3 + 2 = 5\n#### 5"}


def tokeniser(tokenizer, stops=(), **settings):
    settings = load(None, **settings)
    template = chat_template.of(copy.deepcopy(tokenizer), settings)
    return Tokeniser(probe.probe(template, {tokenizer.eos_token_id, *stops}), settings)


def sequences(tokenizer, row, **settings):
    return tokeniser(tokenizer, **settings).rows([("a.jsonl:7", row)])[0]


def tokenised(tokenizer, row, **settings):
    """Return the only sequence of a row, or its error."""
    found = sequences(tokenizer, row, **settings)
    if isinstance(found, list):
        (found,) = found
    return found


def targets(tokenizer, row):
    return tokenizer.decode([token for token, is_target in zip(row.ids, row.is_target, strict=True) if is_target])


def test_the_response_and_its_end_are_the_targets(tokenizer):
    row = tokenised(tokenizer, ROW)
    assert targets(tokenizer, row) == ROW["answer"] + tokenizer.eos_token
    assert tokenizer.decode(row.ids) == f"<s><user>{ROW['question']}<assistant>{ROW['answer']}</s>"
    assert (row.prompt, row.reference) == (ROW["question"], ROW["answer"])


def test_generation_starts_from_the_tokens_before_the_response(tokenizer):
    row = tokenised(tokenizer, ROW)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": ROW["question"]}], add_generation_prompt=True, return_dict=False
    )
    assert row.ids[: len(prompt)] == prompt and not any(row.is_target[: len(prompt)])


def test_every_assistant_turn_is_a_target(tokenizer):
    messages = [
        {"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c?"}, {"role": "assistant", "content": "d"}, {"role": "user", "content": "e?"},
    ]  # fmt: skip
    row = tokenised(tokenizer, {"messages": messages})
    assert targets(tokenizer, row) == "b</s>d</s>"
    assert tokenizer.decode(row.ids).endswith("d</s>")


def test_a_system_prompt_comes_first(tokenizer):
    row = tokenised(tokenizer, ROW, system_prompt="Be short.")
    assert tokenizer.decode(row.ids).startswith("<s><user>Be short.<user>Ana")


def test_a_template_that_writes_bos_twice_gives_one(tokenizer):
    doubled = copy.deepcopy(tokenizer)
    doubled.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    assert tokenised(doubled, ROW).ids == tokenised(tokenizer, ROW).ids


def test_the_date_in_a_template_never_changes(tokenizer):
    dated = copy.deepcopy(tokenizer)
    dated.chat_template = (
        "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}" + tokenizer.chat_template
    )
    assert tokenizer.decode(tokenised(dated, ROW).ids).startswith(DATE_STRING)


def test_a_pad_token_that_is_eos_does_not_hide_the_end(tokenizer):
    padless = copy.deepcopy(tokenizer)
    padless.pad_token = padless.eos_token
    assert tokenised(padless, ROW).ids[-1] == padless.eos_token_id
    assert tokenised(padless, ROW).is_target[-1]


def test_a_model_without_a_template_gets_lines(tokenizer):
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    row = tokenised(plain, ROW)
    assert targets(plain, row) == ROW["answer"] + plain.eos_token
    assert plain.decode(row.ids) == f"<s>User:\n{ROW['question']}\n\nAssistant:\n{ROW['answer']}</s>"


def test_long_rows_are_cut_and_counted(tokenizer):
    row = tokenised(tokenizer, ROW, max_length=16)
    assert len(row.ids) == 16 and row.is_cut and not tokenised(tokenizer, ROW).is_cut


def test_a_row_that_does_not_fit_is_cut_or_dropped(tokenizer):
    whole = tokenised(tokenizer, ROW)
    length, prompt = len(whole.ids), whole.is_target.index(True)
    cut = tokenised(tokenizer, ROW, max_length=length - 1)
    assert cut.ids == whole.ids[:-1] and cut.counts.is_cut and cut.counts.length == length
    assert not whole.counts.is_cut and whole.counts.length == length
    assert tokenised(tokenizer, ROW, max_length=prompt + 1).is_target.count(True) == 1
    assert sequences(tokenizer, ROW, max_length=prompt) == Dropped(NO_TARGET, length)
    assert sequences(tokenizer, ROW, max_length=length - 1, long_rows="drop") == Dropped(TOO_LONG, length)
    for choice in ("drop", "refuse"):
        assert tokenised(tokenizer, ROW, max_length=length, long_rows=choice) == whole


def test_messages_after_the_last_target_are_counted(tokenizer):
    asked = [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "1"}]
    ends = {"": 0, "x": 1, "xy": 2}
    for more, number in ends.items():
        messages = [*asked, *({"role": "user", "content": text} for text in more)]
        assert tokenised(tokenizer, {"messages": messages}).counts.left_out == number


def test_many_rows_are_tokenised_in_order_by_all_cores(tokenizer, monkeypatch):
    monkeypatch.setattr(workers, "MANY_ROWS", 7)
    monkeypatch.setattr(workers, "CHUNK_ROWS", 7)
    monkeypatch.setattr(workers.resources, "cores", lambda: 3)
    read = [(f"a.jsonl:{i}", {"question": f"{i}?", "answer": str(i + 1)}) for i in range(100)]
    made = tokeniser(tokenizer)
    found = list(workers.tokenised(read, made, BadRows()))
    whole = [sequence for row in made.rows(read) for sequence in row]
    assert found == whole
    wrong = range(5, 100, 8)
    for i in wrong:
        read[i][1]["answer"] = ""
    bad = BadRows()
    assert list(workers.tokenised(read, made, bad)) == [row for i, row in enumerate(whole) if i not in wrong]
    with pytest.raises(DataError) as caught:
        bad.check()
    *named, more = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in named] == [f"a.jsonl:{i}" for i in wrong[:10]]
    assert more == "and 2 more rows that cannot be used"


def test_long_rows_are_taken_a_few_at_a_time_and_shared_by_all_cores(tokenizer, monkeypatch):
    monkeypatch.setattr(workers, "CHUNK_CHARACTERS", 50)
    monkeypatch.setattr(workers, "MANY_CHARACTERS", 200)
    monkeypatch.setattr(workers.resources, "cores", lambda: 2)
    read = [(f"a.jsonl:{i}", {"question": "1" * (i % 60), "answer": "2"}) for i in range(1, 40)]
    read[3] = read[3][0], DataError("a.jsonl:3: not read")
    found = list(workers.chunks(read))
    assert [row for chunk in found for row in chunk] == read
    assert all(sum(map(workers.characters, chunk[:-1])) < 50 for chunk in found) and len(found) > 10
    made = tokeniser(tokenizer)
    whole = [sequence for row in made.rows(read) if isinstance(row, list) for sequence in row]
    assert list(workers.tokenised(read, made, BadRows())) == whole


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        (
            ROW,
            {"max_length": 8, "long_rows": "refuse"},
            "a.jsonl:7: its 21 tokens are more than MAX_LENGTH=8; raise MAX_LENGTH, or set LONG_ROWS to cut or drop",
        ),
        (
            {"question": "a"},
            {},
            "a.jsonl:7: has no column 'answer' but question; no column is left that could be the response: add one",
        ),
        ({"question": "a", "answer": " "}, {}, "a.jsonl:7: column 'answer' is empty, so no target token"),
        ({"question": 1, "answer": "b"}, {}, "a.jsonl:7: column 'question' is not text but int"),
        ({"messages": 3}, {}, "a.jsonl:7: `messages` is not a list of objects"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, {}, "message 1: role 'narrator' is unknown"),
        ({"messages": [{"role": "user", "content": "x"}]}, {}, "a.jsonl:7: has no assistant message"),
        ({"messages": [{"role": "user", "content": None}]}, {}, "message 1: `content` is null or missing"),
    ],
)
def test_an_unusable_row_is_named(tokenizer, row, settings, message):
    assert message in str(tokenised(tokenizer, row, **settings))
