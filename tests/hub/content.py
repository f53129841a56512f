"""What the tests put on their hub: rows, data sets with configurations, and the files of a model."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

MODEL = "meta-llama/Llama-3.2-1B-Instruct"  # the default of MODEL_NAME, and below that of DATASET
DATASET = "openai/gsm8k"
TOKEN, OTHER_TOKEN, WRONG_TOKEN = ("hf_" + letter * 34 for letter in "abc")  # with access, without, not of the hub
README = """---
configs:
- config_name: {first}
  data_files:
  - {{split: train, path: {first}/train-*}}
  - {{split: test, path: {first}/test-*}}
- config_name: {second}
  data_files:
  - {{split: train, path: {second}/train-*}}
---
# Rows
"""


def rows(name: str, number: int) -> list[dict[str, str]]:
    """Return rows in GSM8K's form, of which each has its own text."""
    return [{"question": f"{name} {i}: what is {i} + 1?", "answer": f"It is.\n#### {i + 1}"} for i in range(number)]


def parquet(content: list[dict[str, str]]) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), file)
    return file.getvalue()


def jsonl(content: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in content)


def with_configs(first: str, second: str, train: int = 40, test: int = 6) -> dict[str, bytes | str]:
    """Return the files of a data set with two configurations, as GSM8K has them."""
    return {
        "README.md": README.format(first=first, second=second),
        f"{first}/train-00000-of-00001.parquet": parquet(rows("train", train)),
        f"{first}/test-00000-of-00001.parquet": parquet(rows("test", test)),
        f"{second}/train-00000-of-00001.parquet": parquet(rows(second, 3)),
    }


def files_in(folder: Path) -> dict[str, bytes | str]:
    """Return the files of a model's folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
