"""What stands behind `make` reaches the task: settings as settings, the task's options as its options."""

import fcntl
import json
import os
import pty
import re
import shutil
import subprocess
import sys

import pytest

from sft import ROOT, hostfile
from sft.host.bootstrap import environment
from sft.run import lifecycle
from tests.settings import decided

from .project import RENEWING, Project
from .screen import run_in_terminal

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project"))
    for folder, name in (("runs", "older"), ("runs", "newer"), ("else where", "older")):
        settings = decided(runs_path=project.path / folder, run_name=name)
        lifecycle.create(settings, hostfile.hostfile(2, 1)).update_state("stopped", step=3, total_steps=9)
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


def test_what_is_said_while_the_environment_is_renewed_is_not_in_the_tasks_output(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\necho setting up\nprintf '#!/bin/sh\\necho {}\\n' > .venv/bin/inv\nchmod +x .venv/bin/inv\n"
    )
    python.chmod(0o755)
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # `make test`
    command = ["make", "plan", "JSON=1", f"PYTHON={python}"]
    done = subprocess.run(command, cwd=tmp_path, env=outside, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{}\n", "setting up\n")


@pytest.mark.parametrize("folder", ["a:b", 'a "b" c'])
def test_a_folder_in_which_no_environment_works_is_named_before_anything_is_installed(tmp_path, folder):
    copy = tmp_path / folder
    shutil.copytree(ROOT / "sft" / "host" / "bootstrap", copy / "sft" / "host" / "bootstrap")
    command = [sys.executable, "sft/host/bootstrap/__main__.py"]
    done = subprocess.run(command, cwd=copy, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2 and done.stderr == f"{copy}: {environment.UNFIT}\n"
    assert not (copy / ".venv").exists()


def test_the_machines_python_may_stand_under_a_path_with_spaces_and_be_told_where_not_to_look(tmp_path):
    for name in ("Makefile", "sft/__init__.py", "sft/host/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "sft" / "host" / "bootstrap", tmp_path / "sft" / "host" / "bootstrap")
    (tmp_path / ".mypy_cache").mkdir()
    (tmp_path / "my python").symlink_to(sys.executable)
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    outside |= {"PYTHONHOME": "/no/such", "PYTHONSAFEPATH": "1", "COMPOSE_PROJECT_NAME": "sft-test-of-a-path"}
    command = ["make", "clean", "YES=1", f"PYTHON={tmp_path}/my python"]
    done = subprocess.run(command, cwd=tmp_path, env=outside, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not (tmp_path / ".mypy_cache").exists(), done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_task_whose_output_is_closed_does_its_work(project, closed):
    command = f"{project.invoke[0]} monitor --name older --once {closed}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=project.path, env=project.environment(), capture_output=True, check=False
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr


def test_a_program_that_a_task_calls_does_not_read_a_terminal_that_is_not_the_sessions(project):
    script = project.path / "docs" / "generate.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text("print('written')\n")
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [*project.invoke, "docs"], cwd=project.path, env=project.environment(), stdin=theirs, capture_output=True,
        text=True, check=False, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    os.close(ours)
    assert (done.returncode, done.stdout, done.stderr) == (0, "written\n", "")


def test_json_that_the_disk_has_no_room_for_is_no_success(project):
    command = [*project.invoke, "monitor", "--name", "older"]
    for option, code in (("--json", 1), ("--once", 0)):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [*command, option], cwd=project.path, env=project.environment(), stdout=full, stderr=subprocess.PIPE,
                text=True, check=False,
            )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert not code or done.stderr.startswith("standard output: No space left on device; make room")


def test_a_reader_that_leaves_is_no_error_of_a_task_that_prints_json(project):
    read, write = os.pipe()
    os.close(read)
    command = [*project.invoke, "monitor", "--name", "older", "--json"]
    done = subprocess.run(
        command, cwd=project.path, env=project.environment(), stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_list_of_targets_fits_a_terminal(project):
    lines = make(project, "help").stdout.splitlines()
    assert len(lines) > 12 and max(map(len, lines)) <= 80


@pytest.mark.parametrize("words", [("monitor", "older"), ("older", "monitor"), ("monitr",)])
def test_a_word_that_is_not_a_target_is_refused_before_another_run_is_taken(project, words):
    done = make(project, *words)
    assert done.returncode == 2 and "is not a target" in done.stdout and "newer" not in done.stdout, done.stdout


def test_the_shells_own_name_is_no_run(project):
    assert json.loads(make(project, "monitor", "JSON=1", NAME="laptop").stdout)["run"] == "newer"


def test_a_setting_beside_the_options_counts(project):
    done = make(project, "monitor", "NAME=older", "RUNS_PATH=else where", "JSON=1")
    assert json.loads(done.stdout)["path"] == "else where/older"


def test_a_copy_of_the_project_never_renews_the_environment_that_it_shares(project):
    environment, *_ = re.findall(r"^\$\(INV\): (.+)$", (project.path / "Makefile").read_text(), re.MULTILINE)
    assert set(environment.split()) == set(RENEWING)
    assert "bootstrap" not in make(project, "-n", "check", "plan").stdout


def test_two_makes_at_once_set_the_environment_up_one_after_the_other(project):
    command = [sys.executable, "sft/host/bootstrap/__main__.py"]
    folder = os.open(project.path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)  # as the first make does
    with subprocess.Popen(command, cwd=project.path, stdout=subprocess.PIPE, text=True) as second:
        assert second.stdout.readline() == ".venv: another make is setting it up; waiting for it\n"
        os.close(folder)
        assert second.stdout.read() == ""  # and it has nothing left to do
    assert second.returncode == 0


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
        (("stop", "Name=older"), "Name: no such setting (from make); did you mean NAME?"),
        (("train", "NAME=older"), "NAME: no such setting (from make); did you mean RUN_NAME?"),
        (("soak", "OPTION=--kills 1"), "OPTION: no such setting (from make); did you mean OPTIONS?"),
        (("monitor", "ONCE=maybe"), "ONCE=maybe: is not 1 or 0; use 1 or 0"),
        (("logs", "LINES=few"), "LINES=few: is not a whole number; use a whole number, 0 or more"),
        (
            ("train", "SYSTEM_PROMPT=It costs $5.", "BATCH_SIZE=2"),
            "SYSTEM_PROMPT: holds a $ that stands alone; make replaces it and what follows it; write $$ for each $",
        ),
        (("stop", "NAME=a$$b $$$$c"), "runs/a$b $$c: no such run; the newest: newer, older"),
        (("stop", "NAME=it's"), "runs/it's: no such run; the newest: newer, older"),
    ],
)
def test_a_wrong_word_behind_make_is_one_line(project, words, line):
    done = make(project, *words)
    assert done.returncode == 2 and line in done.stdout.splitlines(), done.stdout


def test_a_setting_behind_inv_is_told_where_it_goes(project):
    done = project.inv("train", "BATCH_SIZE=2", "SYSTEM_PROMPT=a b", "HF_TOKEN=hf_0123456789")
    words = "BATCH_SIZE=2 SYSTEM_PROMPT='a b' HF_TOKEN=…"
    assert done.returncode == 2 and done.stdout == (
        f"BATCH_SIZE: is a setting, and inv takes tasks; write `make train {words}`, or `{words} inv train`\n"
    )
    assert "Usage" in project.inv("test", "--options", "A=b", "--help").stdout


@pytest.mark.parametrize("task", ["resume", "stop", "logs"])
def test_a_runs_bare_name_behind_inv_is_told_where_it_goes(project, task):
    done = project.inv(task, "older")
    assert done.returncode == 2
    assert done.stdout == f"older: is not a task; write `make {task} NAME=older`\n"


def test_errors_break_between_words_in_a_terminal(project):
    wrong = ["DATASET=../nowhere.jsonl", "MAX_LENGTH=many", "GLOBAL_BATCH_SIZE=-1"]
    environment = project.environment(**dict(word.split("=") for word in wrong))
    lines = run_in_terminal(60, "-m", "invoke", "-r", str(project.path), "train", **environment)
    assert max(map(len, lines)) <= 60 and len(lines) > 3
    assert {f"{word}:" for word in wrong} <= {word for line in lines for word in line.split()}
