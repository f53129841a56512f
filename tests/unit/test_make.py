"""What stands behind `make` reaches the task: settings as settings, the task's options as its options."""

import json
import subprocess

import pytest

from sft import cluster
from sft import run as runs
from sft.settings import Settings
from tests.e2e.project import Project


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project"))
    for folder, name in (("runs", "older"), ("runs", "newer"), ("else where", "older")):
        settings = Settings.load(None, runs_path=project.path / folder, run_name=name)
        runs.create(settings, cluster.hostfile(2, 1)).update_state("stopped", step=3, total_steps=9)
    return project


def make(project, *words, **environment):
    return subprocess.run(
        ["make", *words],
        cwd=project.path,
        env=project.environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def test_the_options_of_a_task_stand_behind_make(project):
    done = make(project, "monitor", "NAME=older", "JSON=1")
    assert done.returncode == 0 and json.loads(done.stdout)["run"] == "older", done.stdout
    assert "older  stopped" in make(project, "monitor", "NAME=older", "ONCE=1").stdout
    assert "newer" in make(project, "monitor", "NAME=", "ONCE=0").stdout


def test_the_shells_own_name_is_no_run(project):
    assert json.loads(make(project, "monitor", "JSON=1", NAME="laptop").stdout)["run"] == "newer"


def test_a_setting_beside_the_options_counts(project):
    done = make(project, "monitor", "NAME=older", "RUNS_PATH=else where", "JSON=1")
    assert json.loads(done.stdout)["path"] == "else where/older"


def test_from_another_folder(project, tmp_path):
    done = subprocess.run(
        ["make", "-s", "-C", project.path, "monitor", "JSON=1"],
        cwd=tmp_path, env=project.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout)["run"] == "newer", done.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("stop", "NAM=older"), "NAM: no such setting (from make); did you mean NAME?"),
        (("train", "NAME=older"), "NAME: no such setting (from make); did you mean RUN_NAME?"),
        (("monitor", "ONCE=maybe"), "ONCE=maybe: is not 1 or 0; use 1 or 0"),
        (("logs", "LINES=few"), "LINES=few: is not a whole number; use a whole number, 0 or more"),
        (("stop", "NAME=it's"), "runs/it's: no such run; start one with `make train` or `make demo`"),
    ],
)
def test_a_wrong_word_behind_make_is_one_line(project, words, line):
    done = make(project, *words)
    assert done.returncode == 2 and line in done.stdout.splitlines(), done.stdout
