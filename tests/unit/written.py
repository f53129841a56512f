"""Rows written as files of every kind that is read."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping, Sequence

import pyarrow
import pyarrow.parquet

Rows = Sequence[Mapping[str, object]]


def json_lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def separated(rows: Rows, separator: str) -> bytes:
    """Return a csv file; what is not text is JSON in it, and null is nothing."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), delimiter=separator)
    writer.writeheader()
    for row in rows:
        filled = {name: value for name, value in row.items() if value is not None}
        writer.writerow(
            {name: value if isinstance(value, str) else json.dumps(value) for name, value in filled.items()}
        )
    return text.getvalue().encode()


def table_of(rows: Rows) -> pyarrow.Table:
    """Return rows as a table with all their columns: pyarrow looks at those of the first row alone."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pyarrow.Table.from_pylist([dict.fromkeys(names) | dict(row) for row in rows])


def arrow(rows: Rows, new: Callable[..., pyarrow.RecordBatchWriter]) -> bytes:
    """Return an Arrow file or stream."""
    table, buffer = table_of(rows), io.BytesIO()
    with new(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def parquet(rows: Rows) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table_of(rows), buffer)
    return buffer.getvalue()


def zstandard(content: bytes) -> bytes:
    buffer = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(buffer, "zstd") as file:
        file.write(content)
    return bytes(buffer.getvalue())


TEXTS: dict[str, Callable[[Rows], bytes]] = {
    "a.jsonl": json_lines,
    "b.ndjson": json_lines,
    "lines.json": json_lines,
    "list.json": lambda rows: json.dumps(rows).encode(),
    "list-in.jsonl": lambda rows: json.dumps(rows).encode(),
    "pretty.json": lambda rows: json.dumps(rows, indent=2).encode(),
    "pretty-in.jsonl": lambda rows: json.dumps(rows, indent=2).encode(),
    "objects.jsonl": lambda rows: "\n".join(json.dumps(row, indent=2) for row in rows).encode(),
    "objects.json": lambda rows: "\n".join(json.dumps(row, indent=2) for row in rows).encode(),
    "wrapped.json": lambda rows: json.dumps({"version": 1, "data": rows}).encode(),
    "wrapped-pretty.json": lambda rows: json.dumps({"rows": rows}, indent=1).encode(),
    "one-row-a-line.json": lambda rows: b'{"data": [\n' + b",\n".join(json.dumps(r).encode() for r in rows) + b"\n]}",
    "alone.json": lambda rows: json.dumps({"train": rows}).encode(),
    "comma.csv": lambda rows: separated(rows, ","),
    "semicolon.csv": lambda rows: separated(rows, ";"),
    "tab.csv": lambda rows: separated(rows, "\t"),
    "bar.csv": lambda rows: separated(rows, "|"),
    "excel.csv": lambda rows: b"sep=;\r\n" + separated(rows, ";"),
    "blank-first.csv": lambda rows: b"\n" + separated(rows, ","),
    "a.tsv": lambda rows: separated(rows, "\t"),
}
BINARIES: dict[str, Callable[[Rows], bytes]] = {
    "file.arrow": lambda rows: arrow(rows, pyarrow.ipc.new_file),
    "stream.arrow": lambda rows: arrow(rows, pyarrow.ipc.new_stream),
    "a.parquet": parquet,
}
KINDS = TEXTS | {f"{name}.gz": lambda rows, made=made: gzip.compress(made(rows)) for name, made in TEXTS.items()}
KINDS |= BINARIES | {"UPPER.JSONL": json_lines}
