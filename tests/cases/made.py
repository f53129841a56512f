"""Inputs that are no UTF-8 text, or that an editor would change: compressed, of other encodings, Parquet and Arrow."""

from __future__ import annotations

import codecs
import datetime
import decimal
import gzip
import io
from collections.abc import Callable

import pyarrow
import pyarrow.parquet

from tests.unit.written import zstandard

LINES = b'{"question": "Largest planet?", "answer": "Jupiter"}\n'
CSV = "question,answer\nCapital of Perú?,Lima\n"
CHAT = [{"role": "user", "content": "Largest planet?"}, {"role": "assistant", "content": "Jupiter"}]


def parquet(**columns: pyarrow.Array | list[object]) -> bytes:
    """Return a Parquet file with these columns."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def stream(**columns: pyarrow.Array | list[object]) -> bytes:
    """Return an Arrow stream with these columns."""
    table, buffer = pyarrow.table(columns), io.BytesIO()
    with pyarrow.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


ASKED = ["Largest planet?"]
PAIRS = pyarrow.map_(pyarrow.string(), pyarrow.string())
FILES: dict[str, Callable[[], bytes]] = {
    "bom-and-crlf.jsonl": lambda: codecs.BOM_UTF8 + b'{"question": "a", "answer": "b"}\r\n\r\n',
    "bom-and-crlf.csv": lambda: codecs.BOM_UTF8 + CSV.replace("\n", "\r\n").encode(),
    "old-mac.csv": lambda: CSV.replace("\n", "\r").encode(),
    "utf-16.csv": lambda: CSV.encode("utf-16"),
    "utf-16-without-mark.jsonl": lambda: LINES.decode().encode("utf-16-le"),
    "windows-1252.csv": lambda: CSV.encode("cp1252"),
    "rows.jsonl.gz": lambda: gzip.compress(LINES),
    "rows.jsonl.zst": lambda: zstandard(LINES),
    "rows.csv.gz": lambda: gzip.compress(CSV.encode()),
    "broken-off.jsonl.gz": lambda: gzip.compress(LINES * 99)[:-20],
    "rows.arrow": lambda: stream(question=ASKED, answer=["Jupiter"]),
    "large-strings.parquet": lambda: parquet(
        question=pyarrow.array(ASKED, pyarrow.large_string()), answer=pyarrow.array(["Jupiter"]).dictionary_encode()
    ),
    "list-of-structs.parquet": lambda: parquet(messages=[CHAT]),
    "list-of-maps.parquet": lambda: parquet(
        messages=pyarrow.array([[list(message.items()) for message in CHAT]], pyarrow.list_(PAIRS))
    ),
    "binary.parquet": lambda: parquet(question=ASKED, answer=[b"Jupiter"]),
    "float.parquet": lambda: parquet(question=["1 / 2?"], answer=[0.5]),
    "decimal.parquet": lambda: parquet(question=["1 / 2?"], answer=[decimal.Decimal("0.50")]),
    "timestamp.parquet": lambda: parquet(question=["When?"], answer=[datetime.datetime(2024, 5, 1)]),
    "timestamp-beside.parquet": lambda: parquet(
        question=ASKED, answer=["Jupiter"], asked_at=[datetime.datetime(2024, 5, 1)], price=[decimal.Decimal("0.50")]
    ),
    "verl-gsm8k.parquet": lambda: parquet(
        data_source=["sums"],
        prompt=[[{"role": "user", "content": '2 + 2? Put the answer after "####".'}]],
        ability=["math"],
        reward_model=[{"style": "rule", "ground_truth": "4"}],
        extra_info=[{"split": "train", "index": 0, "question": "2 + 2?", "answer": "2 + 2 = 4\n#### 4"}],
    ),
}
