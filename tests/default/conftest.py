"""The environment that `make demo` makes for a new user: no extras, no development packages.

Every other tier runs in the development environment, which has all optional packages and so hides an import of one.
"""

import os
import subprocess
import sys
import tomllib

import pytest

from tests.e2e.project import ROOT, Project

INSTALL_TIMEOUT_S = 1800


@pytest.fixture(scope="session")
def fresh(tmp_path_factory):
    """A copy of the project whose first command was `make demo`; `fresh.output` is what that printed."""
    why_not = no_packages(tmp_path_factory.mktemp("reachable"))
    if why_not:
        pytest.skip(why_not)
    project = Project(tmp_path_factory.mktemp("fresh"), environment=None)
    process = project.start("make", "demo", f"PYTHON={sys._base_executable}", RUN_NAME="demo")
    try:
        project.output, _ = process.communicate(timeout=INSTALL_TIMEOUT_S)
        assert process.returncode == 0, project.output
        yield project
    finally:
        for left in project.processes():
            left.kill()


def no_packages(folder):
    """Return why packages cannot be installed here, with the remedy, or nothing."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), pinned("invoke")]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    last = (done.stderr.strip() or "no message").splitlines()[-1]
    return f"pip cannot download packages here ({last}); connect to a package index" if done.returncode else ""


def pinned(name):
    """Return the project's requirement of a package."""
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return next(requirement for requirement in requirements if requirement.startswith(name))


@pytest.fixture(scope="session")
def oldest(fresh):
    """The same copy with the oldest transformers that pyproject.toml allows, installed without the constraints."""
    bound = pinned("transformers").removeprefix("transformers>=").split(",")[0]
    pip = [f"{fresh.path}/.venv/bin/python", "-m", "pip", "install", "-q", f"transformers=={bound}"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    return fresh, bound
