"""While a run is at work, `.venv` is neither renewed nor removed; commands that only look or stop go on."""

import os
import shutil
import subprocess
import sys

import pytest

from sft import ROOT
from sft.run import files

RENEWED = "pyproject.toml", "constraints.txt"


@pytest.fixture
def folder(tmp_path):
    """A copy of the project whose packages are older than pyproject.toml, and a run."""
    for name in ("Makefile", *RENEWED):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "sft", tmp_path / "sft", ignore=shutil.ignore_patterns("__pycache__"))
    venv = tmp_path / ".venv"
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (venv / "lib" / version / "site-packages" / "pip").mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    (venv / "bin" / "pip").write_text(f"#!{venv}/bin/python\n")
    (venv / "bin" / "inv").write_text("#!/bin/sh\necho the task $1\n")
    (venv / "bin" / "inv").chmod(0o755)
    os.utime(venv / "bin" / "inv", (0, 0))
    (tmp_path / "all runs" / "mine").mkdir(parents=True)
    (tmp_path / ".env").write_text("RUNS_PATH='all runs'  # on the large disk\n")
    return tmp_path


def make(folder, *words):
    names = ("RUNS_PATH", "YES", "TORCH_BACKEND", "OFFLINE")
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name not in names}
    nowhere = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "UV_OFFLINE": "1"}  # what is tried fails at once
    command = ["make", *words, f"PYTHON={sys.executable}"]
    return subprocess.run(command, cwd=folder, env=outside | nowhere, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("task", ["monitor", "stop", "logs"])
def test_what_looks_or_stops_goes_on_with_the_packages_as_they_are(folder, task):
    with files.lock(folder / "all runs" / "mine" / ".lock"):
        done = make(folder, task)
    assert (done.returncode, done.stdout) == (0, f"the task {task}\n"), done.stderr
    assert done.stderr == (".venv: in use by all runs/mine; its packages are renewed at the first `make` after that\n")
    assert not (folder / ".venv" / ".unfinished").exists()


@pytest.mark.parametrize("words", [["train"], ["setup", "TORCH_BACKEND=cpu"]])
def test_what_needs_the_new_packages_waits_for_the_end_of_the_run(folder, words):
    with files.lock(folder / "all runs" / "mine" / ".claim"):
        done = make(folder, *words)
    assert done.returncode == 2 and "the task" not in done.stdout
    assert ".venv: in use by all runs/mine, and its packages have to be renewed; wait for the end" in done.stderr
    assert not (folder / ".venv" / ".unfinished").exists()


def test_a_broken_environment_is_not_made_anew_under_a_run_on_another_machine(folder):
    (folder / ".venv" / "bin" / "pip").unlink()
    with files.lock(folder / "all runs" / "mine" / ".lock"):
        done = make(folder, "monitor")
    assert done.returncode == 2 and ".venv: in use by all runs/mine, but has no pip; it is made anew" in done.stderr
    assert (folder / ".venv" / "bin" / "inv").exists()


def test_after_its_end_the_packages_are_renewed(folder):
    files.lock(folder / "all runs" / "mine" / ".lock").close()
    done = make(folder, "monitor")
    assert "in use" not in done.stderr and (folder / ".venv" / ".unfinished").exists()


@pytest.mark.parametrize("lock", [".claim", ".lock", "evaluation/.lock"])
def test_a_run_keeps_its_environment(folder, lock):
    (folder / "all runs" / "mine" / "evaluation").mkdir()
    with files.lock(folder / "all runs" / "mine" / lock):
        done = make(folder, "clean", "YES=1")
    assert done.returncode == 2 and (folder / ".venv").exists()
    assert ".venv: in use by all runs/mine; `make stop` ends a run" in done.stderr
