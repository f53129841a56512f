"""Every kind of file gives the rows that were written into it, and what is wrong is named by file and line."""

import gzip
import json
import re

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.errors import DataError, SettingsError
from sft.rows.files import read_file

from .written import KINDS, TEXTS, arrow, json_lines

ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "größer?\nja; \"ja\", 'ja'\t!", "answer": "3"}]


def read(path):
    return [row for _, row in read_file(path)]


def errors(path):
    return [str(row).removeprefix(f"{path.parent}/") for _, row in read_file(path) if isinstance(row, DataError)]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]])
def test_every_kind_gives_the_rows(name, rows, tmp_path):
    (tmp_path / name).write_bytes(KINDS[name](rows))
    assert read(tmp_path / name) == rows


@pytest.mark.parametrize("name", TEXTS)
def test_zstandard(name, tmp_path):
    path = tmp_path / f"{name}.zst"
    for mode in ("wb", "ab"):  # a second frame, as `cat` makes it
        with path.open(mode) as raw, pyarrow.CompressedOutputStream(raw, "zstd") as stream:
            stream.write(TEXTS[name](ROWS) if mode == "wb" else b"")
    assert read(path) == ROWS


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=6)


@given(
    name=st.sampled_from(list(KINDS)),
    rows=st.lists(st.fixed_dictionaries({"question": TEXT, "answer": TEXT}), min_size=1, max_size=4),
)
def test_any_texts_come_back(name, rows, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(KINDS[name](rows))
    assert read(path) == rows


def test_one_object_is_one_row(tmp_path):
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": []}
    for name, indent in (("a.json", None), ("b.json", 2), ("c.jsonl", None), ("d.jsonl", 2)):
        (tmp_path / name).write_text(json.dumps(row, indent=indent))
        assert read(tmp_path / name) == [row], name


WINDOWS = "question,answer\ncaf\xe9?,b\n".encode("cp1252")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "question,answer\na?,b\n".encode("utf-16"), "a.csv:1: is UTF-16 text; convert the file to UTF-8: "
         "iconv -f UTF-16 -t UTF-8 PATH > utf-8.tmp && mv utf-8.tmp PATH"),
        ("a.jsonl", json_lines(ROWS).decode().encode("utf-16-le"), "a.jsonl:1: is UTF-16LE text"),
        ("a.jsonl", json_lines(ROWS).decode().encode("utf-16-be"), "a.jsonl:1: is UTF-16BE text"),
        ("a.json", json.dumps(ROWS).encode("utf-32"), "a.json:1: is UTF-32 text"),
        ("a.csv", WINDOWS, "a.csv:2: is not UTF-8 text; convert the file to UTF-8; if it is Windows-1252: "
         "iconv -f CP1252 -t UTF-8 PATH > utf-8.tmp && mv utf-8.tmp PATH"),
        ("a.csv.gz", gzip.compress(WINDOWS), "gzip -dc PATH | iconv -f CP1252 -t UTF-8 | gzip > utf-8.tmp"),
        ("a.jsonl", gzip.compress(json_lines(ROWS)), "a.jsonl: is compressed with gzip; give its name the ending .gz"),
        ("a.csv.gz", arrow(ROWS, pyarrow.ipc.new_file), "a.csv.gz: is an Arrow file; give its name the ending .arrow"),
        ("a.csv", b"PK\x03\x04 a.xlsx", "a zip archive or a file of Excel; unpack it, and give what is in it, or save"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
         "a.parquet: is a git-lfs pointer and not the file; fetch the file with `git lfs pull`"),
        ("a.jsonl.gz", gzip.compress(json_lines(ROWS * 99))[:-20], "cannot be decompressed (Compressed file ended"),
        ("a.jsonl.gz", json_lines(ROWS), "a.jsonl.gz:1: cannot be decompressed (Not a gzipped file"),
        ("a.jsonl.zst", json_lines(ROWS), "a.jsonl.zst:1: cannot be decompressed (ZSTD decompress failed"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n\n{"a": \n'), "a.jsonl.gz:3: is not valid JSON"),
        ("a.csv", b"sep=;\nq;a\n1;2\n1\n", "a.csv:4: does not have the header's number of fields"),
        ("a.csv", b'q,a\n"He said \\"hi\\" then","b"\n', "a.csv:2: "),
        ("a.csv", b'q, a\n"1 + 1?", "2"\n', 'a.csv:2: a field begins with a space before its quote ("), which is then'),
        ("a.csv", b'q, a\n"1 + 1?", "2, or 3"\n', "remove the spaces behind the separators"),
        ("a.csv", b"q, a\nb,c\n1 + 1?, 2\n", "a.csv:3: a space follows the separator, as in the header, and is"),
        ("a.csv", b"q,a\n1 + 1?,2\nq,a\n1 + 2?,3\n", "a.csv:3: repeats the header, as files do that are joined"),
        ("a.csv", b'q;a\n"1;2\n3;4\n5";6\n7" long;8\n', 'a.csv:4: a quote (") that begins a field encloses whole rows'),
        ("a.jsonl", b'// rows\n{"a": 1}\n', "a.jsonl:1: is not valid JSON"),
        ("a.json", b'{\n "a": 1\n "b": 2\n}', "a.json:3: is not valid JSON"),
        ("a.json", b'{"a": \n{"a": 1}\n', "a.json:1: is not valid JSON"),
        ("a.json", b'{"data": [{}, 3]}', "a.json:data item 2: is not a JSON object but int"),
        ("a.arrow", arrow(ROWS, pyarrow.ipc.new_stream)[:-8], "is not a readable Arrow file (it ends too early)"),
        ("a.arrow", arrow(ROWS, pyarrow.ipc.new_file)[:-8], "a.arrow: is not a readable Arrow file"),
        ("a.arrow", b"", "a.arrow: is not a readable Arrow file (it ends too early)"),
        ("a.json", b'{"train": [{}], "test": [{}]}', "holds the splits train, test; give it as DATASET by itself"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    (error,) = errors(path)
    assert message.replace("PATH", str(path)) in error


@pytest.mark.parametrize("name", ["a.txt", "a.gz", "a.parquet.gz", "a.jsonl.bz2", "a.xlsx", "jsonl"])
def test_other_kinds_are_refused(name, tmp_path):
    (tmp_path / name).write_text("{}")
    with pytest.raises(SettingsError, match=re.escape("has an unknown file type; use .jsonl, .ndjson")):
        read(tmp_path / name)


def test_an_empty_file_has_no_rows(tmp_path):
    for name in ("a.jsonl", "a.json", "a.csv", "a.tsv"):
        (tmp_path / name).write_text("\n")
        assert read(tmp_path / name) == []


# Those whose bytes are those of other text in UTF-8 (UTF-7, ISO-2022) cannot be told from it.
ENCODINGS = (
    "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1", "cp1251", "koi8-r",
    "shift_jis", "euc-jp", "gb18030", "big5", "euc-kr",
)  # fmt: skip
WORDS = st.lists(
    st.sampled_from(["2", "+", "five", "café", "Größe", "сколько", "日本語", "こと", "한국어", "–", "€"]), min_size=1
)


@given(
    st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4),
    st.sampled_from(ENCODINGS),
    st.sampled_from(["a.csv", "a.jsonl"]),
)
def test_text_in_any_encoding_is_read_as_it_was_written_or_refused(tmp_path_factory, pairs, encoding, name):
    rows = [{"question": " ".join(asked), "answer": " ".join(said)} for asked, said in pairs]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    if name == "a.csv":
        lines = ["question,answer", *(f'"{row["question"]}","{row["answer"]}"' for row in rows)]
    try:
        content = "\n".join([*lines, ""]).encode(encoding)
    except UnicodeEncodeError:
        return  # it has no such letters
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    found = [row for _, row in read_file(path)]
    if any(isinstance(row, DataError) for row in found):
        assert encoding not in ("utf-8", "utf-8-sig")
    else:
        assert found == rows
