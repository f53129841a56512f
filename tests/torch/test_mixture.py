"""Several data sets with shares: which rows are trained, how often, and that none of them is held out too."""

import json
from collections import Counter

import pytest

from sft.errors import DataError
from sft.settings.load import load
from sft.trainer.data import prepared_data, sources
from sft.trainer.data.mixed_rows import rows_in


def write(path, numbers, word="q", **columns):
    rows = [{"question": f"{word}{i}", "answer": f"{i}", **columns} for i in numbers]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", range(100), "a")
    write(tmp_path / "b.jsonl", range(40), "b")
    write(tmp_path / "c" / "train.jsonl", range(30), "c")
    write(tmp_path / "c" / "test.jsonl", range(500, 507), "c")
    return tmp_path


def prepared(tiny, dataset, **given):
    settings = load(None, dataset=dataset, max_length=64, **given)
    folder, found = prepared_data.prepared_data(settings, tiny)
    return folder, found, settings


def texts(rows, tokenizer):
    return [tokenizer.decode(rows[i][0].tolist()) for i in range(len(rows))]


def asked(settings):
    train, validation = sources.splits(settings)
    return [row["question"] for _, row in train], [row["question"] for _, row in validation]


def test_counts_of_each_data_set_and_of_all(folder, tiny):
    place, found, _ = prepared(tiny, "a.jsonl,b.jsonl*0.5,c*3x")
    a, b, c = found.parts
    assert [(part.name, part.share, part.rows, part.taken, part.repeats) for part in found.parts] == [
        ("a.jsonl", "1x", 95, 95, 1), ("b.jsonl", "0.5", 38, 19, 1), ("c", "3x", 30, 30, 3),
    ]  # fmt: skip
    assert [part.validation.conversations for part in found.parts] == [5, 2, 7]
    assert found.train.rows == 95 + 19 + 3 * 30
    assert found.train.conversations == 95 + 19 + 30
    assert found.train.tokens == a.train.tokens + b.train.tokens + 3 * c.train.tokens
    assert found.validation.rows == 14
    train, validation = rows_in(place / "train"), rows_in(place / "validation")
    assert len(train) == found.train.rows and len(validation) == 14
    assert train.lengths.sum() == found.train.tokens
    assert train.targets.sum() == found.train.target_tokens
    assert len(list(validation.texts())) == 14
    assert set(found.files) == {"a.jsonl", "b.jsonl", "c/train.jsonl", "c/test.jsonl"}


def test_each_row_is_trained_as_often_as_its_share_says_and_never_held_out(folder, tiny):
    from transformers import AutoTokenizer

    place, _, settings = prepared(tiny, "a.jsonl*2x,b.jsonl*10,c")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    counts = Counter(texts(rows_in(place / "train"), tokenizer))
    held_out = set(texts(rows_in(place / "validation"), tokenizer))
    assert not held_out & set(counts)
    assert Counter(counts.values()) == {2: 95, 1: 10 + 30}
    train, validation = asked(settings)
    assert not set(train) & set(validation)
    numbers = rows_in(place / "train").row_of
    for index in (0, 94, 95, 189, 190, 199, 200, 229):  # first and last rows of each data set, and of each repeat
        assert train[numbers[index]] in texts(rows_in(place / "train"), tokenizer)[index]


def test_the_rows_of_a_share_are_drawn_by_the_seed(folder):
    first, _ = asked(load(None, dataset="b.jsonl*0.5"))
    assert first == asked(load(None, dataset="b.jsonl*0.5"))[0]
    assert first == asked(load(None, dataset="a.jsonl,b.jsonl*0.5"))[0][95:]
    other, _ = asked(load(None, dataset="b.jsonl*0.5", seed=7))
    assert set(first) != set(other)
    more, held_out = asked(load(None, dataset="b.jsonl*0.75"))
    assert set(first) < set(more)
    assert held_out == asked(load(None, dataset="b.jsonl"))[1]


def test_a_number_of_rows_that_are_not_there_takes_all(folder, tiny):
    _, found, _ = prepared(tiny, "b.jsonl*2000")
    assert (found.parts[0].rows, found.parts[0].taken) == (38, 38)


def test_each_data_set_has_its_own_columns_and_system_message(folder, tiny):
    (folder / "d.jsonl").write_text(json.dumps({"ask": "What?", "reply": "That."}) + "\n")
    write(folder / "d.jsonl", [])
    with (folder / "d.jsonl").open("w") as file:
        file.writelines(json.dumps({"ask": f"d{i}", "reply": f"{i}"}) + "\n" for i in range(20))
    (folder / "mix.toml").write_text(
        '[[datasets]]\ndataset = "a.jsonl"\nshare = 0.1\n'
        '[[datasets]]\ndataset = "d.jsonl"\nshare = "2x"\ncolumns = { ask = "prompt", reply = "response" }\n'
    )
    settings = load(None, datasets="mix.toml", max_length=64)
    _, found = prepared_data.prepared_data(settings, tiny)
    assert found.train.conversations == 10 + 19
    assert found.train.used_columns == {'["question", "answer"]': 10, '["ask", "reply"]': 19}
    (folder / "mix.toml").unlink()  # a run's settings hold what the file said
    assert prepared_data.prepared_data(settings, tiny)[1] == found


def test_bad_rows_of_all_data_sets_are_named(folder, tiny):
    write(folder / "a.jsonl", [1]).open("a").write('{"question": "x"}\n')
    write(folder / "b.jsonl", [1]).open("a").write('{"question": "y"}\n')
    with pytest.raises(DataError) as caught:
        prepared(tiny, "a.jsonl*1x,b.jsonl*2x")
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == ["a.jsonl:2", "b.jsonl:2"]


def test_prepared_data_depends_on_every_share_and_file(folder, tiny):
    place, found, _ = prepared(tiny, "a.jsonl,b.jsonl*0.5")
    assert prepared(tiny, "a.jsonl,b.jsonl*0.5")[:2] == (place, found)
    assert prepared(tiny, "a.jsonl,b.jsonl*0.6")[0] != place
    assert prepared(tiny, "b.jsonl*0.5,a.jsonl")[0] != place
    write(folder / "b.jsonl", range(41), "b")
    assert prepared(tiny, "a.jsonl,b.jsonl*0.5")[0] != place
