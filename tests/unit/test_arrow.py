"""Rows in Parquet files and in data sets of the hub are those that were stored, without Arrow's own nulls."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from sft.errors import DataError
from sft.rows import forms
from sft.rows.files import read_file
from sft.settings.load import load

ADD = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}
LOOK = {"id": "c2", "type": "function", "function": {"name": "look", "arguments": {"where": "here"}}}


def tool(name, **properties):
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


ROWS = [
    {
        "messages": [
            {"role": "user", "content": "2+3?"},
            {"role": "assistant", "content": None, "tool_calls": [ADD]},
            {"role": "tool", "content": "5", "tool_call_id": "c1"},
            {"role": "assistant", "content": "5", "reasoning_content": "the tool says so", "weight": 1},
        ],
        "tools": [tool("add", a={"type": "number"}, b={"type": "number"}), tool("look", where={"type": "string"})],
    },
    {
        "messages": [
            {"role": "user", "content": "What is here?"},
            {"role": "assistant", "content": "", "tool_calls": [LOOK], "train": False},
            {"role": "assistant", "content": "", "tool_calls": [LOOK | {"function": {"name": "now", "arguments": {}}}]},
        ],
        "tools": None,
    },
]


def read(path):
    return [row for _, row in read_file(path)]


def converted(rows):
    return [forms.convert(row, "a:1", load(None)) for row in rows]


def test_a_parquet_file_gives_what_json_lines_give(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    stored = pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert "where" in stored[0]["tools"][0]["function"]["parameters"]["properties"]  # what Arrow adds
    assert converted(read(tmp_path / "a.parquet")) == converted(read(tmp_path / "a.jsonl"))
    assert read(tmp_path / "a.parquet")[1]["tools"] is None


def test_json_in_columns_of_text_is_read(tmp_path):
    texts = [{name: json.dumps(value) for name, value in row.items() if value} for row in ROWS]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(texts), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text('messages,tools\n"' + json.dumps(ROWS[1]["messages"]).replace('"', '""') + '",\n')
    assert converted(read(tmp_path / "a.parquet")) == converted(ROWS)
    assert converted(read(tmp_path / "a.csv")) == converted(ROWS[1:])


@pytest.mark.parametrize("kind", [pyarrow.ListArray, pyarrow.LargeListArray])
def test_a_column_of_json_keeps_its_nulls(tmp_path, kind):
    def write(*texts):
        items = pyarrow.ExtensionArray.from_storage(pyarrow.json_(), pyarrow.array(texts))
        table = pyarrow.table({"messages": kind.from_arrays([0, len(texts)], items)})
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        return read(tmp_path / "a.parquet")[0]

    messages = [message | {"extra": {"a": None}} for message in ROWS[1]["messages"]]
    assert write(*map(json.dumps, messages)) == {"messages": messages}
    assert "a.parquet:row 1: is not valid JSON" in str(write("{"))


def test_a_map_is_an_object(tmp_path):
    def write(*messages):
        kind = pyarrow.list_(pyarrow.map_(pyarrow.string(), pyarrow.string()))
        table = pyarrow.table({"messages": pyarrow.array([list(map(list, messages))], type=kind)})
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        return read(tmp_path / "a.parquet")[0]

    call = [("role", "assistant"), ("content", None), ("tool_calls", json.dumps([ADD]))]
    row = write([("role", "user"), ("content", "Hi")], call)
    assert row["messages"][1]["content"] is None
    assert converted([row])[0].messages[1].keys == {"tool_calls": [ADD]}
    twice = write([("role", "user"), ("role", "assistant")])
    assert isinstance(twice, DataError) and "a.parquet:row 1: has the key 'role' twice in a map" in str(twice)


def test_what_json_does_not_have_is_named(tmp_path):
    message = {"role": "user", "content": "Hi", "picture": b"\xff"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"messages": [message]}]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="message 1: `picture` holds bytes, which JSON does not have"):
        converted(read(tmp_path / "a.parquet"))


def test_every_file_of_messages_gives_the_same(tmp_path):
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]
    pairs = [list(message.items()) for message in chat]
    kinds = {
        "struct": pyarrow.array([chat]),
        "map": pyarrow.array([pairs], type=pyarrow.list_(pyarrow.map_(pyarrow.string(), pyarrow.string()))),
        "fixed": pyarrow.array([chat], type=pyarrow.list_(pyarrow.array(chat).type, 2)),
    }
    for name, array in kinds.items():
        pyarrow.parquet.write_table(pyarrow.table({"messages": array}), tmp_path / f"{name}.parquet")
        assert read(tmp_path / f"{name}.parquet") == [{"messages": chat}], name


def test_null_messages_leave_the_row_to_its_other_columns(tmp_path):
    kind = pyarrow.list_(pyarrow.struct({"role": pyarrow.string(), "content": pyarrow.string()}))
    table = pyarrow.table({"messages": pyarrow.array([None], type=kind), "question": ["a?"], "answer": ["b"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert [message.content for message in converted(read(tmp_path / "a.parquet"))[0].messages] == ["a?", "b"]


def test_dates_that_python_does_not_have_are_in_nobodys_way(tmp_path):
    late = pyarrow.array([1_700_000_000_000, 1], pyarrow.timestamp("s"))  # milliseconds, stored as seconds
    columns = {"question": ["a", "b"], "answer": ["1", "2"]}
    pyarrow.parquet.write_table(pyarrow.table(columns | {"created": late}), tmp_path / "a.parquet")
    rows = [tuple(row.values()) for row in read(tmp_path / "a.parquet")]
    assert [(*texts, type(created)) for *texts, created in rows] == [("a", "1", int), ("b", "2", int)]
    inside = pyarrow.StructArray.from_arrays([late], names=["created"])
    pyarrow.parquet.write_table(pyarrow.table(columns | {"meta": inside}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet: the column 'meta' holds a date that cannot be read"):
        raise read(tmp_path / "b.parquet")[0]
