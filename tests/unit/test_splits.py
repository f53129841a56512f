"""Which files of a data set are for training, which for evaluation, and which are not used: all three are said."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from sft.errors import SettingsError
from sft.rows import splits
from sft.settings.load import load

ROW = '{"question": "a?", "answer": "b"}\n'


def folder(path, *names):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([json.loads(ROW)]), path / name)
        else:
            (path / name).write_text(ROW)
    return path


def found(path, **settings):
    files = splits.local_files(path, load(None, dataset=str(path), **settings))
    return [file.name for file in files.train], [file.name for file in files.validation], files.unused


NO_WORD = "its name has no word for a split"


@pytest.mark.parametrize(
    ("names", "train", "evaluation", "unused"),
    [
        (["sums_train.jsonl", "sums_test.jsonl"], ["sums_train.jsonl"], ["sums_test.jsonl"], {}),
        (["faq.jsonl", "devices.jsonl"], ["devices.jsonl", "faq.jsonl"], [], {}),
        (["testimonials.jsonl", "evaluations.csv"], ["evaluations.csv", "testimonials.jsonl"], [], {}),
        (["more.jsonl", "train.jsonl"], ["train.jsonl"], [], {"more.jsonl": NO_WORD}),
        (["train/part-0.jsonl", "test/part-0.jsonl"], ["train/part-0.jsonl"], ["test/part-0.jsonl"], {}),
        (["a/b/train/x.csv", "a/b/dev/x.csv"], ["a/b/train/x.csv"], ["a/b/dev/x.csv"], {}),
        (["split/train.jsonl", "split/val.jsonl"], ["split/train.jsonl"], ["split/val.jsonl"], {}),
        (["data-train-00000.parquet", "data-test-00000.parquet"], ["data-train-00000.parquet"],
         ["data-test-00000.parquet"], {}),
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"],
         ["data/train-00000-of-00001.parquet"], ["data/test-00000-of-00001.parquet"], {}),
        ([f"data/{split}-00000-of-00001.parquet" for split in ("train_sft", "test_sft", "train_gen", "test_gen")],
         ["data/train_sft-00000-of-00001.parquet"], ["data/test_sft-00000-of-00001.parquet"],
         {"data/train_gen-00000-of-00001.parquet": "split train_gen",
          "data/test_gen-00000-of-00001.parquet": "evaluation is on the test_sft files"}),
        (["train.jsonl", "validation.jsonl", "test.jsonl"], ["train.jsonl"], ["validation.jsonl"],
         {"test.jsonl": "evaluation is on the validation files"}),
        (["questions.jsonl", "test.jsonl"], ["questions.jsonl"], ["test.jsonl"], {}),
        (["questions.jsonl", "test/a.jsonl"], ["questions.jsonl"], ["test/a.jsonl"], {}),
        (["a.jsonl", ".cache/b.jsonl", "__pycache__/c.jsonl", ".d.jsonl"], ["a.jsonl"], [], {}),
        (["a.jsonl.gz", "b.xlsx", "README.md", "LICENSE", ".gitattributes", "dataset_infos.json", "config.json"],
         ["a.jsonl.gz"], [], {"b.xlsx": "not a kind of file that is read"}),
        (["state.json"], ["state.json"], [], {}),
    ],
)  # fmt: skip
def test_names_say_what_a_file_is_for(names, train, evaluation, unused, tmp_path):
    assert found(folder(tmp_path, *names)) == (train, evaluation, unused)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no training file"),
        (["test.jsonl"], "holds no training file .*, only test: test.jsonl; add train.jsonl"),
        (["train-test.jsonl"], "train-test.jsonl names two splits, train and test; rename it"),
        (["train/dev/a.jsonl"], "train/dev/a.jsonl names two splits, train and validation"),
        (["data/train_a-00000-of-00001.csv", "data/train_b-00000-of-00001.csv"],
         "has several splits for training: train_a, train_b; choose with TRAIN_SPLIT=train_a, or join several"),
    ],
)  # fmt: skip
def test_what_names_do_not_say_is_refused(names, message, tmp_path):
    with pytest.raises(SettingsError, match=message):
        found(folder(tmp_path, *names))


def test_a_json_file_of_several_splits(tmp_path):
    content = {"train": [{"a": 1}], "validation": [], "test": [{"a": 2}]}
    for path in (tmp_path / "x.json", tmp_path / "folder" / "x.json"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=1))
    files = splits.local_files(tmp_path / "x.json", load(None))
    assert [row for file in files.train for row in file.read()] == [(f"{tmp_path}/x.json:train item 1", {"a": 1})]
    names = (["x.json[train]"], ["x.json[validation]"])
    assert found(tmp_path / "folder") == (*names, {"x.json[test]": "evaluation is on the validation files"})


def test_the_own_files_of_data_path_are_not_data(tmp_path):
    folder(tmp_path, "mine.jsonl", "prepared/x/train.jsonl", "hub/a/train.jsonl", "demo-0123456789ab/train.jsonl")
    assert found(tmp_path, data_path=tmp_path) == (["mine.jsonl"], [], {})
    assert found(tmp_path / "demo-0123456789ab", data_path=tmp_path) == (["train.jsonl"], [], {})


def test_folders_behind_links_are_read_once(tmp_path):
    folder(tmp_path, "elsewhere/a.jsonl", "set/b.jsonl")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "round").symlink_to(tmp_path / "set")
    assert found(tmp_path / "set") == (["b.jsonl", "linked/a.jsonl"], [], {})


def test_everything_is_said(tmp_path):
    names = ["train.jsonl", "valid.jsonl", "test.jsonl", *(f"{i}.jsonl" for i in range(7))]
    files = splits.local_files(folder(tmp_path, *names), load(None))
    assert files.lines() == [
        "train.jsonl for training; valid.jsonl for evaluation",
        f"not used ({NO_WORD}): 0.jsonl, 1.jsonl, 2.jsonl, 3.jsonl, 4.jsonl and 2 more",
        "not used (evaluation is on the validation files): test.jsonl",
    ]


def test_the_same_rows_in_two_kinds_of_files_are_read_once(tmp_path):
    path = folder(
        tmp_path, "train.jsonl", "train.parquet", "train.csv.gz", "test/a.parquet", "test/a.json", "train-2.csv"
    )
    train, evaluation, unused = found(path)
    assert (sorted(train), evaluation) == (["train-2.csv", "train.jsonl"], ["test/a.json"])
    same = "train.jsonl has the same name"
    assert unused == {"train.parquet": same, "train.csv.gz": same, "test/a.parquet": "test/a.json has the same name"}


def test_rows_about_pictures_are_refused(tmp_path):
    path = folder(tmp_path, "train/metadata.jsonl", "train/1.PNG")
    with pytest.raises(
        SettingsError, match="is a data set of pictures, sound or films, such as train/1.PNG, described in"
    ):
        found(path)
