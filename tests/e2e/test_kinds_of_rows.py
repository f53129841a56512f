"""Rows longer than MAX_LENGTH, and rows that are texts: a run trains what there is, and says what it left out."""

import json
import math

import pytest

from sft.run import typed_json
from sft.run.directory import Run
from sft.run.records import Prepared
from sft.trainer.data import demo
from sft.trainer.model import tiny

from .project import metrics, small, stopped

GOOD = {"question": "1 + 1?", "answer": "2"}


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_prompt_longer_than_max_length_does_not_end_a_run(project, tmp_path):
    long = GOOD | {"question": "1" * 60}
    write(tmp_path / "rows/train.jsonl", [GOOD, long, *[GOOD] * 10])
    write(tmp_path / "rows/validation.jsonl", [long, GOOD, GOOD])
    settings = small(RUN_NAME="long-prompt", DATASET=tmp_path / "rows", MAX_LENGTH=32, MAX_STEPS=2, EVALUATE=1)
    done = project.inv("train", **settings, MAX_NEW_TOKENS=2)
    assert done.returncode == 0, done.stdout
    assert (
        "train: 11 rows" in done.stdout and "1 row dropped (8.3%): no target is left within MAX_LENGTH" in done.stdout
    )
    assert "warning: train: 8.3% of the rows (1 of 12) are cut or dropped at MAX_LENGTH=32: " in done.stdout
    assert done.stdout.count("rows: 15 read = 11 trained + 2 dropped + 2 held out") == 2, "at the start, in the report"
    run = Run(project.path / "runs" / "long-prompt")
    answers = [json.loads(line) for line in run.answers.read_text().splitlines()]
    assert [answer["index"] for answer in answers] == [1, 2] * 2, "the numbers that the rows have in their split"
    seen = json.loads(project.inv("monitor", "--json", "--name", run.name).stdout)
    assert seen["rows"] == {"read": 15, "trained": 11, "dropped": 2, "held_out": 2, "not_in_share": 0}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base model without a chat template."""
    folder = tmp_path_factory.mktemp("base")
    demo.write(folder / "data")
    tiny.make(folder / "model", (folder / "data" / "train.jsonl").read_text().splitlines()[:500], seed=0)
    (folder / "model" / "chat_template.jinja").unlink(missing_ok=True)
    file = folder / "model" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": None}))
    return folder / "model"


def test_texts_are_trained_evaluated_and_resumed(project, base, tmp_path):
    texts = [f"Ana has {i} eggs and sells {i % 7} of them. " * (1 + i % 9) for i in range(40)]
    write(tmp_path / "rows/train.jsonl", [{"text": text} for text in [*texts, " "]])
    write(tmp_path / "rows/validation.jsonl", [{"text": text} for text in texts[:6]])
    given = {"MAX_LENGTH": 48, "SAVE_STEPS": 6, "EVALUATE": 1, "TRAIN_ON": "last"}
    settings = small(MODEL_NAME=base, DATASET=tmp_path / "rows", **given)
    done = project.inv("train", **settings, RUN_NAME="texts")
    assert done.returncode == 0, done.stdout
    assert "train: 40 texts, " in done.stdout and "1 row dropped (2.4%): empty" in done.stdout
    assert "settings: TRAIN_ON does not apply to texts" in done.stdout and "template" not in done.stdout
    assert "perplexity " in done.stdout and "exact match" not in done.stdout and "no answers to score" in done.stdout
    run = Run(project.path / "runs" / "texts")
    before, after = run.results().before, run.results().after
    assert after.loss < before.loss and after.perplexity == math.exp(after.loss)
    assert (after.answers, after.exact_match, run.answers.exists()) == (0, None, False)
    assert typed_json.read(run.prepared, Prepared).template is None

    again = stopped(run, "texts-again", 6)
    resumed = project.inv("resume", "--name", again.name)
    assert resumed.returncode == 0 and "after step 6" in resumed.stdout, resumed.stdout
    losses, whole = ([loss for (loss,) in metrics(one, "train/loss") if loss] for one in (again, run))
    assert losses == whole and len(whole) == 12
    evaluated = project.inv("evaluate", "--name", run.name)
    assert evaluated.returncode == 0 and "perplexity " in evaluated.stdout, evaluated.stdout
    shown = project.inv("rows", **settings)
    assert shown.returncode == 0 and "train 41 texts" in " ".join(shown.stdout.split()), shown.stdout
