"""Folders as the hub and `datasets` write them: what they say of their files counts."""

import json

import pyarrow
import pytest

from sft.errors import SettingsError
from sft.rows import splits
from sft.rows.layouts import expression
from sft.settings.load import load
from tests.unit.test_splits import folder, found

NAMED = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
# A data set
"""
SEVERAL = """---
configs:
- config_name: en
  data_files: en/*.jsonl
- config_name: de
  {default}data_files:
  - split: train
    path: [de/a.jsonl, "de/b*"]
  - split: test
    path: de/**/test.jsonl
- config_name: fr
  data_dir: fr
---
"""
FILES = ["en/a.jsonl", "de/a.jsonl", "de/b1.jsonl", "de/x/y/test.jsonl", "fr/train.jsonl", "fr/dev.jsonl"]


def saved(path, *names):
    """A folder as Dataset.save_to_disk writes it."""
    path.mkdir(parents=True)
    table = pyarrow.Table.from_pylist([{"question": "a?", "answer": "b"}])
    for name in names:
        with pyarrow.ipc.new_stream(path / name, table.schema) as writer:
            writer.write_table(table)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": names[0]}], "_split": None}))
    (path / "dataset_info.json").write_text('{"citation": ""}')


def test_a_readme_names_the_files_of_each_split(tmp_path):
    path = folder(tmp_path, "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet")
    (path / "README.md").write_text(NAMED)
    unused = {"data/test-00000-of-00001.parquet": "the data set does not name it"}
    assert found(path) == (["data/train-00000-of-00001.parquet"], [], unused)


@pytest.mark.parametrize(
    ("config", "train", "evaluation"),
    [
        ("en", ["en/a.jsonl"], []),
        ("de", ["de/a.jsonl", "de/b1.jsonl"], ["de/x/y/test.jsonl"]),
        ("fr", ["fr/train.jsonl"], ["fr/dev.jsonl"]),
    ],
)
def test_dataset_config_chooses(config, train, evaluation, tmp_path):
    (folder(tmp_path, *FILES) / "README.md").write_text(SEVERAL.format(default=""))
    *files, unused = found(tmp_path, dataset_config=config)
    assert files == [train, evaluation]
    assert unused == dict.fromkeys({*FILES} - {*train, *evaluation}, "the data set does not name it")


def test_the_default_configuration_is_taken_or_one_has_to_be_named(tmp_path):
    (folder(tmp_path, *FILES) / "README.md").write_text(SEVERAL.format(default="default: true\n  "))
    assert found(tmp_path)[0] == ["de/a.jsonl", "de/b1.jsonl"]
    for config, text, remedy in (
        ("", SEVERAL.format(default=""), "has the configurations en, de, fr; name one of them$"),
        ("english", NAMED, "has the configurations default; name one of them, or leave it empty for default"),
    ):
        (tmp_path / "README.md").write_text(text)
        with pytest.raises(SettingsError, match=rf"DATASET_CONFIG={config}: .* {remedy}"):
            found(tmp_path, dataset_config=config)
    (tmp_path / "README.md").write_text("# Rows")
    with pytest.raises(SettingsError, match="DATASET_CONFIG=en: .* has no configurations; leave it empty"):
        found(tmp_path, dataset_config="en")


def test_the_configuration_that_was_once_the_default_is_not_asked_of_other_data_sets(tmp_path):
    path = folder(tmp_path, "data/train-00000-of-00001.parquet")
    assert found(path, dataset_config="main") == found(path)
    (path / "README.md").write_text(NAMED)
    assert found(path, dataset_config="main") == found(path)


def test_files_that_were_not_downloaded_are_named(tmp_path):
    (folder(tmp_path, "data/test-0.jsonl") / "README.md").write_text(NAMED)
    with pytest.raises(SettingsError, match=r"its README.md names data/train-\*, but there is no such data file"):
        found(tmp_path)


@pytest.mark.parametrize("text", ["# Rows", "---\nlicense: mit\n---\n", "---\nconfigs: 3\n---\n", "---\nconfigs:\n"])
def test_a_readme_without_configurations_says_nothing(text, tmp_path):
    (folder(tmp_path, "a.jsonl") / "README.md").write_text(text)
    assert found(tmp_path) == (["a.jsonl"], [], {})


def test_yaml_that_cannot_be_read_is_named(tmp_path):
    (folder(tmp_path, "a.jsonl") / "README.md").write_text("---\nconfigs:\n- [\n---\n")
    with pytest.raises(SettingsError, match=r"the YAML at the beginning of its README.md cannot be read"):
        found(tmp_path)


def test_save_to_disk(tmp_path):
    saved(tmp_path / "set", "data-00000-of-00001.arrow", "cache-1f.arrow")
    unused = {"cache-1f.arrow": "not in state.json"}
    assert found(tmp_path / "set") == (["data-00000-of-00001.arrow"], [], unused)
    (file,) = splits.local_files(tmp_path / "set", load(None)).train
    assert [row for _, row in file.read()] == [{"question": "a?", "answer": "b"}]
    (tmp_path / "set" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(SettingsError, match=r"state.json in it lists data-00000-of-00001.arrow, which is not there"):
        found(tmp_path / "set")


def test_save_to_disk_of_several_splits(tmp_path):
    for split in ("train", "test"):
        saved(tmp_path / split, "data-00000-of-00001.arrow")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert found(tmp_path) == (["train/data-00000-of-00001.arrow"], ["test/data-00000-of-00001.arrow"], {})


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("data/train-*", ["data/train-0.csv"], ["data/x/train-0.csv", "data/train.csv", "data/train-0/x.csv"]),
        ("**/*.csv", ["a.csv", "x/y/a.csv"], ["a.csv.gz"]),
        ("data/**", ["data/a.csv", "data/x/a.csv"], ["a.csv"]),
        ("a?[0-9].csv", ["ab1.csv"], ["a1.csv", "abc.csv", "a/1.csv"]),
        ("a.csv", ["a.csv"], ["abcsv"]),
    ],
)
def test_patterns(pattern, matches, others):
    assert [name for name in matches + others if expression(pattern).fullmatch(name)] == matches


def test_the_hub_s_own_copy_of_a_data_set_has_a_folder_for_each_configuration(tmp_path):
    names = ("en/train/0000.parquet", "en/train/0001.parquet", "en/test/0000.parquet", "de/partial-train/0000.parquet")
    folder(tmp_path, *names)
    with pytest.raises(SettingsError, match="DATASET_CONFIG=: .* has the configurations de, en; name one of them"):
        found(tmp_path)
    assert found(tmp_path, dataset_config="en")[:2] == ([*names[:2]], [names[2]])
    assert found(tmp_path, dataset_config="de")[:2] == ([names[3]], [])
