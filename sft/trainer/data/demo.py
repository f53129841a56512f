"""The data of `DATASET=demo`: word problems in GSM8K's form that a tiny model learns in a minute on a CPU."""

from __future__ import annotations

import json
import random
from pathlib import Path

TRAIN_ROWS = 4000
TEST_ROWS = 200

NAMES = "Ana Ben Chi Dov Eva Fay Gus Hana Ida Jun Kai Lea Mia Noa Oto Pia Ravi Sol Tom Uma".split()
THINGS = "apples books cards coins cups eggs hats keys nuts pens plums rings shells stamps stars".split()


def problem(rng: random.Random) -> dict[str, str]:
    """Return one row: a sum or a difference of small numbers, told as a story."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    if rng.random() < 0.5:
        story, sign, result = f"{name} has {a} {things} and finds {b} more.", "+", a + b
    else:
        a, b = max(a, b), min(a, b)
        story, sign, result = f"{name} has {a} {things} and gives away {b}.", "-", a - b
    return {
        "question": f"{story} How many {things} does {name} have now?",
        "answer": f"{a} {sign} {b} = {result}\n#### {result}",
    }


def write(folder: Path, seed: int = 0) -> None:
    """Write `train.jsonl` and `test.jsonl`. No question of the test is in the training rows."""
    rng = random.Random(seed)
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < TRAIN_ROWS + TEST_ROWS:
        row = problem(rng)
        rows[row["question"]] = row
    unique = list(rows.values())
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("test", unique[:TEST_ROWS]), ("train", unique[TEST_ROWS:])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text)
