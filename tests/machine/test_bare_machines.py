"""The first `make` on machines as they come. They stop at torch, which has no wheel there.

`python -m tests.machine.demos` goes on to a finished run, which takes minutes for each.
"""

import re
import sys

import pytest

from . import containers, python_mirror
from .conftest import offline
from .containers import Machine

NO_TORCH = r"torch==[\d.]+\+cpu: not installed \(.+\); check the network, or install it into .venv yourself and .+"


def problem(done):
    """Return the last line before make's own."""
    *lines, last = done.stdout.strip().splitlines()
    assert last.startswith("make: *** ") and done.returncode == 2 and "Traceback" not in done.stdout, done.stdout
    return lines[-1]


def python_of(machine, project):
    """Return the version of the Python in a copy's `.venv`, as it says itself in a container."""
    code = "import sys, pip; print(*sys.version_info[:2])"
    done = machine.run(project, ".venv/bin/python", "-c", code)
    assert done.returncode == 0, done.stdout
    return tuple(map(int, done.stdout.split()))


@pytest.mark.parametrize(("suite", "version"), [("bookworm", (3, 11)), ("trixie", (3, 13))])
def test_debian_without_venv_and_pip(suite, version, project, wheels):
    machine = offline(suite, wheels)
    done = machine.make(project, "demo")
    assert re.fullmatch(NO_TORCH, problem(done)), done.stdout
    assert (
        f"python3 is {version[0]}.{version[1]}." in done.stdout and "without venv: making .venv with uv" in done.stdout
    )
    assert python_of(machine, project) == version
    again = machine.make(project, "demo")  # goes on where it was
    assert "making .venv" not in again.stdout and re.fullmatch(NO_TORCH, problem(again)), again.stdout


def test_an_older_python_gets_a_newer_one_from_a_mirror(project, wheels, mirror):
    older = containers.older_python()
    if older is None:
        pytest.skip(f"no Python {' or '.join(containers.OLDER)} here; pyenv or uv installs one")
    if sys.version_info[:2] == (3, 13):
        pytest.skip("the machine has the mirror's Python itself; run the tests with another one")
    machine = offline("trixie", wheels, **mirror.environment("/mirror"))
    machine.mounts |= {"/mirror": mirror.folder, str(older.parents[1]): older.parents[1]}
    machine.mounts |= {str(folder): folder for folder in python_mirror.library_folders()}
    machine.python = str(older)
    done = machine.make(project, "demo")
    assert re.fullmatch(NO_TORCH, problem(done)), done.stdout
    assert f"making .venv with uv and Python {python_mirror.VERSION}" in done.stdout
    assert python_of(machine, project) == sys.version_info[:2]
    home = machine.run(project, ".venv/bin/python", "-c", "import sys; print(sys.base_prefix)").stdout
    assert home.startswith(f"{containers.FOLDER}/.uv/python/cpython-{python_mirror.VERSION}")


def test_debian_11_is_told_that_no_newer_python_can_be_had(project, wheels):
    line = problem(offline("bullseye", wheels).make(project, "demo"))
    assert line.startswith("PYTHON=/usr/bin/python3: is 3.9.2, and uv could not get Python 3.12 (")
    assert line.endswith("connect to the network and try again, or use PYTHON=python3.11")
    assert not (project / ".venv").exists()


def test_no_network_and_nothing_to_begin_with(project):
    line = problem(Machine("bookworm").make(project, "demo"))
    assert line.startswith("PYTHON=/usr/bin/python3: is 3.11.2 without venv, and uv could not help (no pip, and apt")
    assert line.endswith("install it: sudo apt install python3-venv") and not (project / ".venv").exists()


def test_no_python(project):
    done = Machine("bookworm", python="python4").make(project, "demo")
    assert problem(done) == "PYTHON=python4: not found; install it, on Debian and Ubuntu: sudo apt install python3"


def test_an_environment_of_another_machine_or_without_its_python_is_made_anew(project, wheels):
    machine = offline("bookworm", wheels)
    machine.make(project, "demo")
    other = offline("trixie", wheels)
    done = other.make(project, "demo")
    assert ".venv: was made for another Python, and its python is 3.13 now; it is made anew" in done.stdout
    assert python_of(other, project) == (3, 13)
    python = project / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/usr/bin/python3.99")  # as after the distribution has removed it
    assert ".venv: its python does not run here; it is made anew" in other.make(project, "demo").stdout
