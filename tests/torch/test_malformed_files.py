"""Any data file, however broken: every row read, or what is wrong named by file and line; no row lost silently."""

import csv
import io
import json
import random
import re

import pyarrow
import pyarrow.parquet
import pytest

from sft.errors import DataError
from sft.rows.files import read_file
from sft.settings.fields import Settings
from sft.trainer.data import sources

from . import chat_templates

FILES = 2000
KINDS = ("jsonl", "json", "csv", "parquet")
TEXTS = ["1 + 1?", "größer\nnein", "", " ", "x" * 20_000, "\u2028", 'a,b;"c"', "😀" * 50, "\x00", "0"]
ODD = [None, 7, 1.5, True, [], {}, ["a"], {"a": 1}, "\ud800", float("nan"), 10**400]
PLACE = dict.fromkeys(KINDS, r"\.\w+:(\d+|item \d+|row \d+): ")
PLACE |= {kind: PLACE[kind] + r"|\.\w+: is n" for kind in ("json", "parquet")}  # the file as a whole


def good_rows(draw):
    """Return rows as a careful user has them."""
    rows = []
    for _ in range(draw.randint(1, 12)):
        if draw.random() < 0.7:
            rows.append({"question": "What is 1 + 1?", "answer": draw.choice(["2", "größer\nnein", "x" * 3000])})
        else:
            turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
            rows.append({"messages": turns * draw.randint(1, 3)})
    if len({tuple(row) for row in rows}) > 1 and draw.random() < 0.7:
        rows = [row for row in rows if "question" in row]
    return rows


def spoil_row(row, draw):
    """Change a row as a careless program would."""
    row = json.loads(json.dumps(row))
    name = draw.choice(list(row))
    how = draw.randrange(6)
    if how == 0:
        del row[name]
    elif how == 1:
        row[name] = draw.choice(ODD)
    elif how == 2:
        row[name] = draw.choice(TEXTS)
    elif how == 3:
        row["messages"] = draw.choice([None, [], [None], [{"role": "user"}], [{"role": [], "content": "x"}],
                                       [{"role": "assistant", "content": ""}], [{"role": "assistant", "content": "x"}],
                                       [{"role": "system", "content": "x"}] * 2])  # fmt: skip
    elif how == 4:
        row["unknown\n" + "y" * draw.randint(0, 300)] = draw.choice(ODD)
    elif row.get("messages"):
        draw.choice(row["messages"])[draw.choice(["role", "content"])] = draw.choice([*ODD, *TEXTS])
    return row


def written(rows, kind, draw):
    """Return the bytes of a file of rows."""
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=draw.random() < 0.9) + "\n" for row in rows).encode(
            errors="surrogatepass"
        )
    if kind == "json":
        return json.dumps(rows, indent=draw.choice([None, 1])).encode()
    if kind == "csv":
        text = io.StringIO()
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(text, names, lineterminator=draw.choice(["\n", "\r\n"]))
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode(errors="surrogatepass")
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer, row_group_size=5)
    return buffer.getvalue()


def spoil_bytes(content, draw):
    """Change a file as disks, editors and copies do."""
    at = draw.randrange(len(content) + 1)
    return draw.choice([
        lambda: content[:at],
        lambda: content[at:],
        lambda: content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :],
        lambda: content[:at] + b"\0" * draw.randint(1, 5) + content[at:],
        lambda: content[:at] + bytes(draw.choices(b'"{}[],:\\\n\r', k=3)) + content[at:],
        lambda: content.replace(b"\n", b"\r\n"),
        lambda: b"\xef\xbb\xbf" + content,
        lambda: content.decode("utf-8", "replace").encode("utf-16"),
        lambda: content.decode("utf-8", "replace").encode("latin-1", "replace"),
        lambda: content + content,
        lambda: content + b"[" * 50_000 + b"\n",
        lambda: content + b'{"a":' * 50_000 + b"\n",
        lambda: content + b'{"question": ' + b"9" * 5000 + b"}\n",
        lambda: content + b'{"question": "a", "question": "b", "answer": "c"}\n',
        lambda: b"",
        lambda: content,
    ])()  # fmt: skip


def read(path, tokeniser):
    """Return how many rows a file gives, or the errors that are said of it."""
    found = tokeniser.rows(sources.readers(Settings.of(tokeniser.settings, dataset=str(path)))["train"])
    errors = [row for row in found if isinstance(row, DataError)]
    return errors or len(found)


@pytest.fixture(scope="module")
def tokeniser(tokenizer):
    return chat_templates.tokeniser(tokenizer, max_length=4096)


def rows_in(content, kind):
    """Return the number of rows that an independent look finds in a text file; None where it cannot tell."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    if kind == "csv":
        return sum(1 for row in csv.reader(io.StringIO(text, newline="")) if row) - 1 if text.strip() else 0
    if text.lstrip().startswith("[") and kind == "json":
        return len(json.loads(text))
    return sum(1 for line in re.split(r"\r\n|\r|\n", text) if line.strip())


@pytest.mark.parametrize("kind", KINDS)
def test_any_file_is_read_whole_or_named(kind, tmp_path, tokeniser):
    path = tmp_path / f"train.{kind}"
    read_whole = named = 0
    for seed in range(FILES // len(KINDS)):
        draw = random.Random(f"{kind} {seed}")
        rows = good_rows(draw)
        if draw.random() < 0.4:
            rows[draw.randrange(len(rows))] = spoil_row(draw.choice(rows), draw)
        try:
            content = written(rows, kind, draw)
        except (pyarrow.ArrowException, TypeError, ValueError, OverflowError, UnicodeError):
            content = written(good_rows(draw), kind, draw)  # that kind of file cannot hold such rows
        if draw.random() < 0.6:
            content = spoil_bytes(content, draw)
        path.write_bytes(content)
        found = read(path, tokeniser)
        if isinstance(found, list):
            named += 1
            for line in map(str, found):
                assert str(path) in line and re.search(PLACE[kind], line), (seed, line)
                assert line.isprintable() and len(line) < 1000, (seed, line)
            continue
        read_whole += 1
        wanted = pyarrow.parquet.read_metadata(path).num_rows if kind == "parquet" else rows_in(content, kind)
        assert found == wanted, (seed, found, wanted)
    assert named > 100 and read_whole > 100, (named, read_whole)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": "x"}\n{"a": "\xff"}\n', "a.jsonl:2: is not UTF-8 text; convert the file to UTF-8"),
        ("a.jsonl", b'{"a": 1, "a": 2}\n', "a.jsonl:1: has the key 'a' twice; fix the line"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "a.jsonl:1: holds a number with too many digits; fix the line"),
        ("a.json", b'[\n{"a": 1},\n{"a" 2}\n]', "a.json:3: is not valid JSON (Expecting ':' delimiter at column 6)"),
        ("a.csv", b"q,a\nx,y\nx,\xff\n", "a.csv:3: is not UTF-8 text; convert the file to UTF-8"),
        ("a.csv", b"q,a,q\n1,2,3\n", "a.csv:1: has the column 'q' twice; rename one"),
    ],
)
def test_the_line_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    (error,) = [row for _, row in read_file(path) if isinstance(row, DataError)]
    assert message in str(error)


def test_a_lone_surrogate_is_named(tokeniser):
    row = {"question": "a \ud800", "answer": "b"}
    (error,) = tokeniser.rows([("a.jsonl:7", row)])
    assert "a.jsonl:7: column 'question' holds half a character (a lone surrogate)" in str(error)


def test_messages_that_are_null_leave_the_columns(tokeniser):
    """A Parquet file of both kinds of rows has both kinds of columns in every row."""
    both = {"question": "1 + 1?", "answer": "2", "messages": None}
    assert len(tokeniser.rows([("a.parquet:row 1", both)])) == 1


def test_a_row_that_the_template_refuses_is_named(tokenizer):
    strict = (
        "{% if messages[0].content == 'a' %}{{ raise_exception('no a\nhere') }}{% endif %}" + tokenizer.chat_template
    )
    found = chat_templates.tokeniser(chat_templates.with_template(tokenizer, strict))
    (error,) = found.rows([("a.jsonl:7", {"question": "a", "answer": "b"})])
    assert str(error).startswith("a.jsonl:7: the chat template cannot render it: it refuses it (no a here);")
