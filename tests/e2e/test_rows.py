"""`make rows` as a user calls it: what will be trained is shown before any training, from a tokenizer alone."""

import csv
import re
import shutil

import pytest

from .project import Project
from .screen import run_in_terminal

ROWS = 40


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny):
    """A fresh copy with rows like GSM8K's and a model without weights."""
    project = Project(tmp_path_factory.mktemp("project"))
    shutil.copytree(tiny, project.path / "models/small", ignore=shutil.ignore_patterns("*.safetensors"))
    (project.path / "data").mkdir()
    with (project.path / "data/sums.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["question", "answer"])
        for number in range(ROWS):
            words = "and 1 more " * number
            table.writerow([f"Ana has 3 pens {words}?", f"3 + {number}\n= {3 + number}\n#### {3 + number}"])
    return project


@pytest.fixture
def rows(project):
    """Return what calls `inv rows` on those rows."""

    def call(*options, **settings):
        usual = {"MODEL_NAME": "models/small", "DATASET": "data/sums.csv", "DEVICE": "cpu"}
        return project.inv("rows", *options, **(usual | settings))

    return call


def test_the_demo_is_shown_with_the_tiny_model_and_is_prepared_only_once(project):
    done = project.inv("rows", MODEL_NAME="tiny", DATASET="demo", DEVICE="cpu")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("»⟦</s>⟧") == 3 and "4,000 rows" in done.stdout and "train.jsonl:2001" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    again = project.inv("rows", "--split", "validation", MODEL_NAME="tiny", DATASET="demo", DEVICE="cpu")
    assert again.returncode == 0 and "preparing" not in again.stdout and "validation" in again.stdout, again.stdout


def test_rows_are_chosen_by_number_length_and_cut(project, rows):
    done = rows("--index", "37", "--ids")
    assert done.returncode == 0 and "data/sums.csv:" in done.stdout, done.stdout
    assert re.search(r"«3 \+ 3\d\n= 4\d\n#### 4\d»⟦</s>⟧", done.stdout), done.stdout
    assert re.search(r"^ +\d+ +\d+  end +'</s>'$", done.stdout, re.MULTILINE), done.stdout
    longest = re.search(r"tokens, .*\n(.*)", rows("--longest").stdout)
    assert longest and longest[1].count("and 1 more") >= ROWS - 2
    cut = rows("--cut", "--number", "1", MAX_LENGTH=180)
    assert "cut at MAX_LENGTH=180: its last" in cut.stdout, cut.stdout


def test_the_page_is_written_where_it_was_asked_for(project, rows):
    done = rows("--html", "page.html")
    page = (project.path / "page.html").read_text()
    assert done.returncode == 0 and "written: page.html" in done.stdout and '<span class="target">3 + 0' in page
    done = rows("--html", "nowhere/page.html")
    assert done.returncode == 2 and "HTML=nowhere/page.html: cannot be written" in done.stdout
    done = rows("--html", ".")
    assert done.returncode == 2 and "HTML=.: is a folder; give a file, such as rows.html" in done.stdout


@pytest.mark.parametrize(
    ("options", "settings", "said"),
    [
        (("--index", "4000"), {}, "INDEX=4000: the train split has 38 rows, numbered from 0 to 37"),
        ((), {"MODEL_NAME": "models"}, "MODEL_NAME=models: holds no config.json"),
        ((), {"PROMPT_COLUMN": "ask"}, "has no column 'ask'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(rows, options, settings, said):
    done = rows(*options, **settings)
    assert done.returncode == 2 and said in done.stdout and "Traceback" not in done.stdout, done.stdout


def test_rows_that_cannot_be_used_are_named_after_the_others_are_shown(project, rows):
    (project.path / "data/mixed.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 3 + '{"question": "a"}\n')
    done = rows(DATASET="data/mixed.jsonl")
    assert done.returncode == 2 and "a<assistant>«b»" in done.stdout, done.stdout
    assert "data/mixed.jsonl:4: has no column 'answer'" in done.stdout.splitlines()[-1]


def test_options_behind_make_and_colours_in_a_terminal(project):
    (project.path / "data/evil.jsonl").write_text('{"question": "\\u001b[2J[bold]a", "answer": "b\\r\\u0007"}\n' * 2)
    lines = run_in_terminal(
        80, "-c", f"import os; os.chdir({str(project.path)!r}); os.execvp('make', ['make', 'rows', 'INDEX=0'])",
        **project.environment(MODEL_NAME="models/small", DATASET="data/evil.jsonl", DEVICE="cpu"),
    )  # fmt: skip
    text = "\n".join(lines)
    assert "\\x1b[2J[bold]a<assistant>b\\r\\x07</s>" in text and "«" not in text, text
