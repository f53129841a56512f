"""Local data: every kind of file, and what is wrong named by file and line."""

import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from sft.errors import DataError, SettingsError
from sft.rows import splits
from sft.settings.load import load
from sft.trainer.data import sources

SETTINGS = load(None)
ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "größer?\nja", "answer": "3"}]


def read(path):
    return [row for _, row in sources.readers(load(None, dataset=str(path)))["train"]]


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in ROWS), encoding="utf-8-sig")
    (tmp_path / "b.json").write_text(json.dumps(ROWS))
    (tmp_path / "c.csv").write_text('question,answer\n1 + 1?,2\n"größer?\nja",3\n')
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "d.parquet")
    for name in ("a.jsonl", "b.json", "c.csv", "d.parquet"):
        assert read(tmp_path / name) == ROWS, name


def test_file_names_say_which_split(tmp_path):
    for name in ("train-0.jsonl", "train-1.jsonl", "test.jsonl", "validation.jsonl", "README.md"):
        (tmp_path / name).write_text("{}\n")
    files = splits.local_files(tmp_path, SETTINGS)
    assert [file.name for file in files.train] == ["train-0.jsonl", "train-1.jsonl"]
    assert [file.name for file in files.validation] == ["validation.jsonl"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', r"a.jsonl:2: is not valid JSON .* fix the line"),
        ("a.jsonl", "{}\n[1]\n", r"a.jsonl:2: is not a JSON object but list; write one object per row"),
        ("a.json", "[{}, 3]", r"a.json:item 2: is not a JSON object but int"),
        ("a.csv", "q,a\n1,2\n1\n", r"a.csv:3: does not have the header's number of fields"),
        ("a.csv", "q,a\n1,2,3\n", r"a.csv:2: does not have the header's number of fields"),
        ("a.parquet", "no parquet", r"a.parquet: is not a readable Parquet file"),
        ("a.jsonl", b'{"a": "\xff"}\n', r"a.jsonl:1: is not UTF-8 text"),
    ],
)
def test_what_is_malformed_is_named_by_file_and_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    errors = [row for row in read(path) if isinstance(row, DataError)]
    assert len(errors) == 1 and re.search(message, str(errors[0]))


def test_a_folder_without_rows_is_an_error(tmp_path):
    with pytest.raises(SettingsError, match="holds no training file"):
        sources.readers(load(None, dataset=str(tmp_path)))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(SettingsError, match="has an unknown file type"):
        read(tmp_path / "a.txt")
