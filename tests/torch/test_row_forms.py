"""The forms of other trainers' demo files are trained as the same tokens, with the same targets, as `messages`."""

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from sft.settings.load import load
from sft.trainer.data import prepared_data
from sft.trainer.data.rows import Rows

SYSTEM = "Answer in one word."
TURNS = [("Snow is?", "White"), ("And coal?", "Black"), ("And [1, 2]?", " Numbers. ")]


def chat(turns, names, system=SYSTEM):
    """Return turns as a list of messages; `names`: of the two keys and the three roles."""
    key, text, *roles = names
    said = [(roles[0], system)] + [(role, words) for turn in turns for role, words in zip(roles[1:], turn, strict=True)]
    return [{key: role, text: words} for role, words in said]


OPENAI = ("role", "content", "system", "user", "assistant")
SHAREGPT = ("from", "value", "system", "human", "gpt")
ALPACA = {"instruction": "And", "input": "[1, 2]?", "output": " Numbers. ", "system": SYSTEM, "history": TURNS[:2]}
FORMS = {
    "messages": {"messages": chat([*TURNS[:2], ("And\n[1, 2]?", " Numbers. ")], OPENAI)},
    "alpaca of LLaMA-Factory": ALPACA,
    "ShareGPT of axolotl": {"conversations": chat([*TURNS[:2], ("And\n[1, 2]?", " Numbers. ")], SHAREGPT)},
    "ShareGPT of LLaMA-Factory": {
        "conversations": chat([*TURNS[:2], ("And\n[1, 2]?", " Numbers. ")], SHAREGPT)[1:],
        "system": SYSTEM,
        "tools": "[]",
    },
    "history of ms-swift": {"query": "And\n[1, 2]?", "response": " Numbers. ", "system": SYSTEM, "history": TURNS[:2]},
}
ONE = chat(TURNS[2:], OPENAI)
OF_ONE_ANSWER = {
    "messages": {"messages": ONE},
    "prompt and completion of TRL": {"prompt": ONE[:2], "completion": ONE[2:]},
    "OpenOrca of axolotl": {"system_prompt": SYSTEM, "question": TURNS[2][0], "response": TURNS[2][1]},
}


def write_jsonl(path, row):
    path.with_suffix(".jsonl").write_text(json.dumps(row) + "\n")


def write_csv(path, row):
    with path.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([row, [v if isinstance(v, str) else json.dumps(v) for v in row.values()]])


def write_parquet(path, row):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path.with_suffix(".parquet"))


@pytest.mark.parametrize("write", [write_jsonl, write_csv, write_parquet])
@pytest.mark.parametrize("rows", [FORMS, OF_ONE_ANSWER])
def test_rows_of_every_form_are_the_same_tokens(rows, write, tmp_path, tiny):
    trained = []
    for number, row in enumerate(rows.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in ("train", "validation"):
            write(folder / name, row)
        settings = load(None, dataset=str(folder), data_path=tmp_path / "data", use_columns="refuse")
        prepared, _ = prepared_data.prepared_data(settings, tiny)
        split = Rows(prepared / "train")
        trained.append([(ids.tolist(), is_target.tolist()) for ids, is_target in (split[i] for i in range(len(split)))])
    assert trained == [trained[0]] * len(rows) and any(trained[0][0][1])
