"""Rows of a data set of the hub are those that somebody wrote, whatever keys `datasets` gives them."""

import json

import datasets
import pytest

from sft.rows import forms
from sft.settings.load import load
from sft.trainer.data import sources

USER, ANSWER = {"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "5", "weight": 1}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"properties": {name: {"type": "number"}}}}}
    for name in ("a", "b")
]
ROWS = [
    {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}], "tools": TOOLS},
    {"messages": [USER, ANSWER], "tools": []},
]
# `datasets` stores these messages as JSON: their contents are not all of one type.
MIXED = [{**ROWS[0], "messages": [USER | {"content": ["2+", "3?"]}, ROWS[0]["messages"][1]]}, ROWS[1]]


@pytest.mark.parametrize("rows", [ROWS, MIXED])
def test_what_the_library_pushes_to_the_hub_gives_what_json_lines_give(rows, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    stored = datasets.load_dataset("json", data_files=str(path), cache_dir=str(tmp_path / "cache"))
    assert "Json" in str(stored["train"].features["messages"]) or rows is ROWS
    pushed = tmp_path / "train-00000-of-00001.parquet"
    stored["train"].to_parquet(pushed)
    settings = load(None, dataset=str(pushed))
    places, read = zip(*sources.readers(settings)["train"], strict=True)
    assert places == (f"{pushed}:row 1", f"{pushed}:row 2")
    expected = [forms.convert(row, "x", settings) for row in rows]
    assert [forms.convert(row, "x", settings) for row in read] == expected
    assert [list(tool["function"]["parameters"]["properties"]) for tool in expected[0].tools] == [["a"], ["b"]]
