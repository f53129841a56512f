"""TRAIN_SPLIT and EVAL_SPLIT: the rows that they name, in the data set's own order."""

import json

import pytest

from sft.errors import DataError, SettingsError
from sft.rows import look
from sft.rows.selections import check_apart
from sft.rows.splits import local_files
from sft.settings.load import load
from sft.settings.slices import Slice, overlap, parse

WRONG = ["train[", "train[5]", "train[1:2:3]", "train[:x]", "a b", "+", "train+", "train[:101%]", "train[:5](closest)"]


def write(path, **splits):
    path.mkdir(exist_ok=True)
    for split, rows in splits.items():
        lines = [json.dumps({"question": f"{split} {i}", "answer": str(i)}) for i in range(rows)]
        (path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return path


def rows(path, train="", evaluation=""):
    settings = load(None, dataset=str(path), train_split=train, eval_split=evaluation)
    found = local_files(path, settings).selections
    check_apart(found, settings)
    look.check_first_rows(path, settings)
    return [
        [row["question"] for selection in selections for _, row in selection.read()] for selections in found.values()
    ]


def of(split, *numbers):
    return [f"{split} {i}" for i in numbers]


@pytest.mark.parametrize(
    ("train", "evaluation", "expected"),
    [
        ("", "", [of("train", *range(10)), of("test", 0, 1)]),
        ("train[:30%]", "", [of("train", 0, 1, 2), of("test", 0, 1)]),
        ("train[2:4]", "train[-20%:]", [of("train", 2, 3), of("train", 8, 9)]),
        ("train[:2]+train[-1:]", "test[1:]", [of("train", 0, 1, 9), of("test", 1)]),
        ("train[:2]+test", "", [of("train", 0, 1) + of("test", 0, 1), []]),
        ("test", "", [of("test", 0, 1), []]),
        ("test", "train[:1]", [of("test", 0, 1), of("train", 0)]),
    ],
)
def test_splits_are_named_and_sliced(train, evaluation, expected, tmp_path):
    assert rows(write(tmp_path, train=10, test=2), train, evaluation) == expected


@pytest.mark.parametrize(
    ("train", "evaluation"),
    [("train[:90%]", "train[80%:]"), ("train", "train[9:]"), ("", "train[:1]"), ("train[:5]", "train[-8:]"),
     ("train+test", "test[:1]"), ("train[:5]", "train[4:6]")],
)  # fmt: skip
def test_rows_are_not_trained_and_evaluated(train, evaluation, tmp_path):
    with pytest.raises(SettingsError, match=r"EVAL_SPLIT=.*: rows of .* are trained too, with TRAIN_SPLIT=.*; divide"):
        rows(write(tmp_path, train=10, test=2), train, evaluation)


def test_wrong_splits_list_those_that_there_are(tmp_path):
    for setting in ("train", "evaluation"):
        with pytest.raises(SettingsError, match=r"_SPLIT=foo\[:3\]: .* has no split foo, but train, test; name one"):
            rows(write(tmp_path, train=10, test=2), **{setting: "foo[:3]"})
    with pytest.raises(DataError, match="has no training rows"):
        rows(tmp_path, "train[5:3]")


def test_no_rows_are_held_out_if_none_are_evaluated(tmp_path):
    path = write(tmp_path, train=3, test=2)
    settings = load(None, dataset=str(path), eval_split="none", evaluate=False)
    found = local_files(path, settings)
    assert [file.name for file in found.train] == ["train.jsonl"] and not found.validation
    with pytest.raises(SettingsError, match="EVAL_SPLIT=none: leaves no rows to evaluate on; set EVALUATE=0"):
        load(None, eval_split="none")


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_split_is_refused(text):
    with pytest.raises(SettingsError, match="TRAIN_SPLIT"):
        load(None, train_split=text)


def test_a_slice_is_read_no_further_than_it_goes(tmp_path):
    path = write(tmp_path, train=3)
    with (path / "train.jsonl").open("a") as file:
        file.write("no JSON\n")
    assert rows(path, "train[:3]") == [of("train", 0, 1, 2), []]


def test_slices_share_rows_for_sure_or_once_the_rows_are_counted():
    assert overlap(Slice("a"), Slice("a", 5)) and not overlap(Slice("a"), Slice("b"))
    negative = parse("a[-5:]")[0]
    assert not overlap(parse("a[:10]")[0], negative)
    assert overlap(parse("a[:10]")[0], negative, 14) and not overlap(parse("a[:10]")[0], negative, 15)
