"""A folder is split as Hugging Face's `datasets` would split it."""

import random

import datasets
import pytest
from datasets.data_files import DataFilesDict, get_data_patterns

from sft.errors import SettingsError
from sft.rows.splits import local_files
from sft.settings.load import load

FOLDERS = 1000
SETTINGS = load(None)
WORDS = ["train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation", "devices",
         "retrain", "contest", "tests", "sums", "00000", "part", "trained", "v1", "split", "latest"]  # fmt: skip
SEPARATORS = ["-", "_", ".", " ", "0", "1", "9", "+", "a"]
PLACES = ["", "data/", "train/", "test/", "validation/", "split/", "my_train/", "dev-1/", "a/train/", "a/b/", "sft/"]


def tree(draw):
    """Return the names of a few files, as people call them."""

    def word():
        return draw.choice(SEPARATORS).join(draw.choices(WORDS, k=draw.choice([1, 1, 2, 2, 3])))

    if draw.random() < 0.15:
        splits = draw.sample(["train", "test", "validation", "train_sft", "part", "test_sft"], k=draw.randint(1, 3))
        return [f"data/{split}-0000{i}-of-00002.jsonl" for split in splits for i in range(2)]
    return list({draw.choice(PLACES) + word() + ".jsonl" for _ in range(draw.randint(1, 5))})


def of_the_library(folder):
    """Return the library's files by split, or None if it finds nothing to train on."""
    found = DataFilesDict.from_patterns(get_data_patterns(str(folder)), base_path=str(folder))
    return {split: {str(file)[len(str(folder)) + 1 :] for file in files} for split, files in found.items()}


def test_folders_are_split_as_by_the_library(tmp_path):
    compared = refused = 0
    for seed in range(FOLDERS):
        folder = tmp_path / str(seed)
        names = tree(random.Random(seed))
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}\n")
        theirs = of_the_library(folder)
        train = theirs.get("train") or theirs.get("train_sft")
        if train is None:
            continue
        try:
            ours = local_files(folder, SETTINGS)
        except SettingsError as error:
            twice = [name for name in train for split in theirs if split != "train" and name in theirs[split]]
            assert twice and "names two splits" in str(error), (names, theirs, str(error))
            refused += 1
            continue
        assert {file.name for file in ours.train} == train, (names, theirs)
        held_out = theirs.get("validation") or theirs.get("test") or theirs.get("test_sft") or set()
        assert {file.name for file in ours.validation} == held_out, (names, theirs)
        assert {*(file.name for file in ours.used), *ours.unused} == set(names)
        compared += 1
    assert compared > FOLDERS / 2 and refused > 3, (compared, refused)


@pytest.mark.parametrize("name", ["train", "sums_train", "train-00000", "my.train", "train1", "TRAIN"])
def test_words_between_separators(name, tmp_path):
    (tmp_path / f"{name}.jsonl").write_text("{}\n")
    (tmp_path / "devices.jsonl").write_text("{}\n")
    assert local_files(tmp_path, SETTINGS).lines() == [
        f"{name}.jsonl for training; no file for evaluation",
        "not used (its name has no word for a split): devices.jsonl",
    ]


def test_what_save_to_disk_writes_is_read(tmp_path):
    """Also after a filter, and with messages, which the library stores as structs."""
    rows = [
        {"messages": [{"role": "user", "content": str(i)}, {"role": "assistant", "content": "b"}]} for i in range(9)
    ]
    data = datasets.Dataset.from_list(rows)
    split = datasets.DatasetDict({"train": data.filter(lambda row: row["messages"][0]["content"] != "3"), "test": data})
    split.save_to_disk(tmp_path / "all", num_shards={"train": 2, "test": 1})
    data.save_to_disk(tmp_path / "one")
    found = local_files(tmp_path / "all", SETTINGS)
    assert [row for file in found.train for _, row in file.read()] == rows[:3] + rows[4:]
    assert [row for file in found.validation for _, row in file.read()] == rows
    assert not found.unused and len(found.train) == 2
    assert [row for file in local_files(tmp_path / "one", SETTINGS).train for _, row in file.read()] == rows
