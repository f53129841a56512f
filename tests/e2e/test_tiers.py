"""What tests/conftest.py promises every tier."""

import os
import shutil
import subprocess
import sys

from tests.conftest import HERE, LONGEST

MODULE = """
import os, pathlib, subprocess, sys, time
import pytest

CHILD = "import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"


@pytest.fixture(scope="module")
def pids():
    process = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, start_new_session=True, text=True)
    started.extend([process.pid, int(process.stdout.readline())])
    {in_fixture}


started = []


{decorator}
def test_that_leaves_processes(pids):
    {in_test}


def test_after_it():
    for pid in started:
        status = pathlib.Path("/proc", str(pid), "status")
        assert not status.exists() or "zombie" in status.read_text()
"""
WAYS = {
    "fixture": ("", "assert False", "pass"),
    "test": ("", "pass", "assert False"),
    "timeout": ("@pytest.mark.timeout(2, func_only=True)", "pass", "time.sleep(600)"),
}


def test_processes_of_a_failed_test_are_ended_before_the_next_test(tmp_path):
    tier = tmp_path / "tests" / "e2e"
    tier.mkdir(parents=True)
    for file in ("__init__.py", "conftest.py"):
        shutil.copy(HERE / file, tier.parent)
    shutil.copytree(HERE / "warm", tier.parent / "warm")
    for name, (decorator, in_fixture, in_test) in WAYS.items():
        program = MODULE.format(decorator=decorator, in_fixture=in_fixture, in_test=in_test)
        (tier / f"test_{name}.py").write_text(program)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "e2e", "tests"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert "2 failed, 3 passed, " in done.stdout and ", 1 error in" in done.stdout, done.stdout
    assert "Timeout (>2.0s)" in done.stdout


def test_the_files_and_folders_that_run_first_are_there():
    assert [name for name in LONGEST if not (HERE / name).exists()] == []


COLLECT = """
import sys, time
import pytest

now = time.time
time.time = lambda: now() + float(sys.argv[1])
sys.exit(pytest.main(["-p", "no:cacheprovider", "--collect-only", "-q", "tests/unit"]))
"""


def test_tests_have_the_same_names_in_every_process_and_at_any_time():
    """Two processes that collect different names end the whole run: pytest-xdist compares them."""
    seconds = (0, 1e8)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COLLECT, str(later)], cwd=HERE.parent, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
        )
        for seed, later in enumerate(seconds)
    ]  # fmt: skip
    one, other = ([line for line in process.communicate()[0].splitlines() if "::" in line] for process in processes)
    assert one == other and len(one) > 1000
