"""What the looks at rows find is beside the prepared data, named, whatever the number of processes and sequences."""

import json

import pytest

from sft.run import typed_json
from sft.run.records import LookCounts, Looks
from sft.settings.load import load
from sft.trainer.data import looks, prepared_data

LONG = "They came to the river every day to sell bread and fish in"


def rows(number, start=0):
    numbers = range(start, start + number)
    return [{"question": f"{i} + 1?", "answer": f"It is {i} + 1 = {i + 1}, as you see."} for i in numbers]


@pytest.fixture
def prepared(tmp_path, tiny):
    """Return what prepares rows and returns the numbers in the manifest and the file of the looks."""

    def prepare(train, validation, **given):
        (tmp_path / "rows").mkdir()
        for name, content in (("train", train), ("test", validation)):
            text = "".join(json.dumps(row) + "\n" for row in content)
            (tmp_path / f"rows/{name}.jsonl").write_text(text)
        settings = load(None, dataset=str(tmp_path / "rows"), data_path=tmp_path / "data", **given)
        folder, found = prepared_data.prepared_data(settings, tiny)
        return found.looks, typed_json.read(folder / looks.FILE, Looks)

    return prepare


@pytest.mark.parametrize("cores", [1, 2])
def test_rows_are_named_in_every_process(cores, prepared, monkeypatch):
    monkeypatch.setattr("sft.resources.cores", lambda: cores)
    train = rows(1500)
    train[1200] = train[7]
    train[1300] = {"question": "Why?", "answer": f"{LONG} the"}
    held_out = [*rows(20, 5000), train[9], {"question": "8 + 1 ?", "answer": "nan"}]
    counts, file = prepared(train, held_out)
    assert counts == LookCounts(
        train_rows=1500,
        validation_rows=22,
        train={"repeated": 1, "cut_short": 1},
        validation={"leaked": 1, "leaked_alike": 1, "placeholder": 1},
        odd_rows=2,
    ) == file.counts  # fmt: skip
    named = {item.look: item.rows for item in file.found}
    assert named["repeated"][0].where.endswith("rows/train.jsonl:1201")
    assert named["repeated"][0].like.endswith("rows/train.jsonl:8")
    assert named["leaked"][0].where.endswith("rows/test.jsonl:21") and named["leaked"][0].like.endswith(
        "train.jsonl:10"
    )
    assert (named["cut_short"][0].prompt, named["cut_short"][0].answer) == ("Why?", f"{LONG} the")
    assert named["placeholder"][0].like is None


def test_rows_of_several_sequences_are_named_right(prepared, tmp_path):
    rewrites = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<assistant>"
        "{{ '(last)' if loop.last else '' }}{{ m.content }}</s>{% else %}<user>{{ m.content }}{% endif %}{% endfor %}"
        "{{ '<assistant>' if add_generation_prompt else '' }}"
    )
    (tmp_path / "rewrites.jinja").write_text(rewrites)
    turns = ["a?", "It is one.", "b?", "It is two.", "c?", "It is three."]
    chat = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    train = [{"messages": chat}, *rows(3), {"messages": chat}, {"question": "Why?", "answer": "..."}]
    counts, file = prepared(train, rows(2, 50), chat_template=str(tmp_path / "rewrites.jinja"))
    assert counts.train == {"repeated": 1, "wordless": 1} and counts.validation == {}
    first, second = (item.rows[0] for item in file.found)
    assert (first.where[-7:], first.like[-7:], first.prompt) == ("jsonl:5", "jsonl:1", "c?")
    assert (second.where[-7:], second.prompt, second.answer) == ("jsonl:6", "Why?", "...")


def test_only_the_first_rows_are_named_and_all_are_counted(prepared, monkeypatch):
    monkeypatch.setattr(looks, "MOST_ROWS", 5)
    counts, file = prepared(rows(9) * 2, rows(2, 50))
    assert counts.train == {"repeated": 9} and file.found[0].number == 9 and len(file.found[0].rows) == 5
