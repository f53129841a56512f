"""Looks before training, as a user sees them: listed by `inv rows --check`, said at the start and in the report."""

import json

import pytest

from sft.run.directory import Run

from .project import Project, small

FAULTS = {
    "repeated": {"question": "4 + 1?", "answer": "It is 4 + 1 = 5, as you see."},
    "contradiction": {"question": "Boxes?", "answer": "#### 7"},
    "cut_short": {"question": "Where?", "answer": "They came to the river every day to sell bread and fish in the"},
    "mojibake": {"question": "Who?", "answer": "It was RenÃ© of the cafÃ©."},
    "placeholder": {"question": "What?", "answer": "nan"},
    "entities": {"question": "Which?", "answer": "It was Tom &amp; Jerry."},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A fresh copy with rows of every fault, of which one in five of those held out is in training too."""
    project = Project(tmp_path_factory.mktemp("project"))
    good = [{"question": f"{i} + 1?", "answer": f"It is {i} + 1 = {i + 1}, as you see."} for i in range(40)]
    split = {
        "train": [*good[:36], {"question": "Boxes?", "answer": "#### 6"}, *FAULTS.values()],
        "test": [*good[36:], good[7]],
        "good": good,
    }
    (project.path / "data/faults").mkdir(parents=True)
    for name, rows in split.items():
        place = "data/good.jsonl" if name == "good" else f"data/faults/{name}.jsonl"
        (project.path / place).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return project


def check(project, *options, **settings):
    return project.inv("rows", "--check", *options, **{"MODEL_NAME": "tiny", "DEVICE": "cpu"} | settings)


def test_every_fault_is_listed_with_its_place(project):
    done = check(project, DATASET="data/faults")
    assert done.returncode == 0, done.stdout
    text = done.stdout[done.stdout.index("43 training rows, 5 held out") :]
    assert "held-out rows that are in training too, word for word: 1 (20.0 %)" in text, text
    assert "data/faults/test.jsonl:5 is like data/faults/train.jsonl:8" in text
    for number, name in enumerate(FAULTS, start=38):
        assert text.count(f"data/faults/train.jsonl:{number}") == 1, name
    assert "    answers: They came to the river every day to sell bread and fish in the\n" in text
    assert max(map(len, text.splitlines())) <= 80
    found = json.loads(check(project, "--json", DATASET="data/faults").stdout.splitlines()[-1])
    assert found["counts"]["train"] == dict.fromkeys(FAULTS, 1) and found["counts"]["validation"] == {"leaked": 1}


def test_nothing_is_found_in_good_rows_and_options_that_choose_rows_are_refused(project):
    done = check(project, DATASET="data/good.jsonl")
    assert done.returncode == 0 and "no row is repeated" in done.stdout, done.stdout
    done = check(project, "--index", "3", DATASET="data/good.jsonl")
    assert done.returncode == 2 and "CHECK=1: lists what is found in all rows" in done.stdout


def test_the_start_the_records_and_the_report_say_what_was_found(project):
    done = project.inv("train", **small(DATASET="data/faults", NODES=1, MAX_STEPS=1, EVALUATE=1))
    assert done.returncode == 0, done.stdout
    text = " ".join(done.stdout.split())
    said = "looks: training rows: 1 repeated (2.3 %), 1 contradicting an earlier one (2.3 %); 4 odd rows (8.3 %): 1"
    assert text.count(said) == 2, text
    warning = "warning: 1 of 5 held-out rows (20.0 %) is in training too (1 word for word): its score shows what the"
    assert text.count(warning) == 2, "at the start, and below the scores"
    prepared = json.loads((Run(project.path / "runs/latest").prepared).read_text())
    assert prepared["looks"]["validation"] == {"leaked": 1} and prepared["looks"]["odd_rows"] == 4
