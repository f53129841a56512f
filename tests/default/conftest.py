"""The environment that `make demo` makes for a new user: no extras, no development packages.

Every other tier runs in the development environment, which has all optional packages and so hides an import of one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.e2e.project import ROOT, Project

INSTALL_TIMEOUT_S = 1800


class Fresh(Project):
    """A copy of the project without an environment, and what its first command printed."""

    output = ""


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """A copy of the project whose first command was `make demo`."""
    why_not = no_packages(tmp_path_factory.mktemp("reachable"))
    if why_not:
        pytest.skip(why_not)
    project = Fresh(tmp_path_factory.mktemp("fresh"), environment=None)
    process = project.start("make", "demo", f"PYTHON={sys.base_prefix}/bin/python3", RUN_NAME="demo")
    project.output, _ = process.communicate(timeout=INSTALL_TIMEOUT_S)
    assert process.returncode == 0, project.output
    return project


def no_packages(folder: Path) -> str:
    """Return why packages cannot be installed here, with the remedy, or nothing."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), pinned("invoke")]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    last = (done.stderr.strip() or "no message").splitlines()[-1]
    return f"pip cannot download packages here ({last}); connect to a package index" if done.returncode else ""


def pinned(name: str) -> str:
    """Return the project's requirement of a package."""
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return next(requirement for requirement in requirements if requirement.startswith(name))


@pytest.fixture(scope="session")
def oldest(fresh: Fresh) -> tuple[Fresh, str]:
    """The same copy with the oldest transformers that pyproject.toml allows, installed without the constraints."""
    bound = pinned("transformers").removeprefix("transformers>=").split(",")[0]
    pip = [f"{fresh.path}/.venv/bin/python", "-m", "pip", "install", "-q", f"transformers=={bound}"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    return fresh, bound
