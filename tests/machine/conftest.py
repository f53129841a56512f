"""Bare machines, if docker's engine and their images are here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sft.host.bootstrap import uv
from tests.conftest import skip_tier

from . import containers, python_mirror
from .containers import Machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_tier(items, "machine", containers.why_not)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel of uv and those that it puts into a new environment: all that `.venv` is made with."""
    return containers.wheels(
        tmp_path_factory.mktemp("wheels"), f"uv=={uv.version()}", "pip", "setuptools", "wheel", "packaging"
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return containers.copy(tmp_path / "sft")


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> python_mirror.Mirror:
    """A mirror of uv's Pythons with the one that runs this."""
    return python_mirror.make(tmp_path_factory.mktemp("mirror"), f"{sys.prefix}/bin/uv")


def offline(suite: str, wheels: Path, **environment: str) -> Machine:
    """Return a machine without a network that has a folder with uv and pip."""
    given = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}
    return Machine(suite, mounts={"/wheels": wheels}, environment=given | environment)
