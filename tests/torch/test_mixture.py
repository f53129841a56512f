"""Several data sets with shares: which rows are trained, how often, and that none of them is held out too."""

import json
import random
from collections import Counter

import pytest

from sft.errors import DataError
from sft.settings.load import load
from sft.settings.mixture import is_mixture
from sft.settings.shares import Share
from sft.trainer.data import prepared_data, sources
from sft.trainer.data.mixed_rows import rows_in
from sft.trainer.evaluation import parts
from sft.trainer.evaluation.score import Answer


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


def test_a_row_of_one_data_set_that_another_holds_out_is_found(folder, tiny):
    settings = load(None, dataset="a.jsonl,b.jsonl,c*2x", max_length=64)
    _, held_out = asked(settings)
    (row,) = (row for _, row in sources.splits(settings)[1] if row["question"] == held_out[0])  # of a.jsonl
    with (folder / "c" / "train.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    place, found = prepared_data.prepared_data(settings, tiny)
    seen = json.loads((place / "looks.json").read_text())["found"]
    leaks = [item for item in seen if item["split"] == "validation"]
    assert [(row["where"], row["like"], row["prompt"]) for item in leaks for row in item["rows"]] == [
        (f"a.jsonl:{int(held_out[0][1:]) + 1}", "c/train.jsonl:31", held_out[0])
    ]
    assert not found.looks.train  # the rows of a share of 2x are no repeats


def test_texts_and_conversations_are_mixed(folder, tiny):
    with (folder / "t.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": f"A text of {i}."}) + "\n" for i in range(20))
    for dataset in ("a.jsonl,t.jsonl", "t.jsonl,a.jsonl"):
        place, found, _ = prepared(tiny, dataset)
        assert found.train.kind == "conversations" and found.template
        assert {part.name: part.train.kind for part in found.parts} == {"a.jsonl": "conversations", "t.jsonl": "texts"}
        assert found.train.conversations == 95 + 19
        assert len(rows_in(place / "validation").asked()) == 5  # texts have no answers
    assert prepared(tiny, "t.jsonl*0.5")[1].train.kind == "texts"


def test_the_rows_that_are_asked_are_of_all_data_sets(folder, tiny):
    place, _, _ = prepared(tiny, "a.jsonl,b.jsonl,c")
    rows = rows_in(place / "validation")  # 5, 2 and 7 rows
    assert parts.asked(rows, 0) == parts.asked(rows, 99) == list(range(14))
    for limit in range(3, 14):
        chosen = parts.asked(rows, limit)
        assert len(chosen) == limit and chosen == sorted(chosen)
        counts = [sum(rows.part_of(index) == number for index in chosen) for number in range(3)]
        assert all(abs(count - limit * size / 14) < 1 for count, size in zip(counts, (5, 2, 7), strict=True))
    assert parts.mean(rows, [1.0, 2.0, None]) == pytest.approx(
        (rows.parts[0].targets.sum() + 2 * rows.parts[1].targets.sum())
        / (rows.parts[0].targets.sum() + rows.parts[1].targets.sum())
    )


def test_answers_are_counted_for_their_data_set_by_the_numbers_of_rows(folder, tiny):
    place, found, _ = prepared(tiny, "a.jsonl,b.jsonl,c")
    rows = rows_in(place / "validation")
    answers = [Answer(number, "", "#### 1", "#### 1" if number < 5 else "#### 2") for number in range(14)]
    lines, form, said = parts.verdicts(rows, answers, "auto", "after")
    assert (form, len(said), [line.index for line in lines]) == ("number", 3, list(range(14)))
    results = parts.of_parts(found.parts, rows, [1.0, 2.0, 3.0], lines)
    assert [(part.name, part.loss, part.answers, part.exact_match) for part in results] == [
        ("a.jsonl", 1.0, 5, 1.0), ("b.jsonl", 2.0, 2, 0.0), ("c", 3.0, 7, 0.0),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_every_row_of_random_mixtures_is_accounted_for(seed, tmp_path, monkeypatch, tiny):
    """Trained + held out + not in a share = read; no held-out row is trained; each as often as its share says."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(seed)
    names, wanted = [], {}
    for number in range(rng.randint(1, 4)):
        path, train, test = f"d{number}", rng.randint(2, 60), rng.choice([0, 0, 3])
        write(tmp_path / path / "train.jsonl", range(train), path)
        if test:
            write(tmp_path / path / "test.jsonl", range(1000, 1000 + test), path)
        share = rng.choice(["1x", "2x", "3x", "0.5", "0.1", "10", "25", "2000"])
        names.append(f"{path}*{share}")
        held_out = test or max(1, int(train * 0.05))
        there = train if test else train - held_out
        taken = Share.parse(share).taken(there)
        wanted[path] = (there, taken, Share.parse(share).repeats, held_out)
    place, found, settings = prepared(tiny, ",".join(names))
    assert {part.name: (part.rows, part.taken, part.repeats, part.held_out) for part in found.parts} == (
        wanted if is_mixture(settings) else {}
    )
    train, validation = asked(settings)
    assert not set(train) & set(validation) and len(train) == len(set(train))
    counts = found.row_counts
    assert counts.read == sum(there + held_out for there, _, _, held_out in wanted.values())
    assert (counts.trained, counts.dropped, counts.held_out) == (len(train), 0, len(validation))
    assert counts.not_in_share == sum(there - taken for there, taken, _, _ in wanted.values())
    seen = Counter(rows_in(place / "train").row_of.tolist())
    assert seen == {i: wanted[question[:2]][2] for i, question in enumerate(train)}  # as in d1, row 17: d117
