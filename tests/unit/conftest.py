"""What unit tests share: settings without the environment, and the rules that keep the tier cheap."""

from __future__ import annotations

import multiprocessing.process
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import NoReturn

import pytest

from sft.host import provenance
from sft.host.plan import disk, measured
from sft.settings.fields import Settings

SETTINGS = {name.upper() for name in [*Settings.model_fields, "make_settings"]}
TRAINING_PACKAGES = {"torch", "deepspeed", "transformers", "datasets", "accelerate", "peft"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every setting out of the environment."""
    for name in SETTINGS & os.environ.keys():
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what this machine has: plans of tests have the table's speeds, and a large disk."""
    monkeypatch.setattr(disk, "free_bytes", lambda path: 1e15)
    monkeypatch.setattr(measured, "folder", lambda settings: settings.data_path / "machines-of-a-test")


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a test starts a process, even if the code under test would take the error for an answer.

    A process costs as much as a hundred tests. What a run notes of the repository is asked of git, so git is left out.
    """
    monkeypatch.setattr(provenance, "git", lambda *words: None)
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    for name in ("fork", "forkpty", "posix_spawn", "system"):
        monkeypatch.setattr(os, name, refuse)


def refuse(*_: object, **__: object) -> NoReturn:
    pytest.fail("this test starts a process: it belongs in tests/e2e")


@pytest.fixture(autouse=True)
def no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no disk: nothing here survives a power failure, and thousands of flushes take longer than the tests."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def is_alone(request: pytest.FixtureRequest) -> bool:
    """Whether this process has unit tests only: beside others, the collection of theirs has imported everything."""
    return all(item.get_closest_marker("unit") for item in request.session.items)


@pytest.fixture(autouse=True)
def no_training_package(is_alone: bool) -> Iterator[None]:
    """Fail if a test or its module has imported one: that takes ten seconds, and may hide that host code needs it."""
    yield
    assert not is_alone or not TRAINING_PACKAGES & set(sys.modules), "this test belongs in tests/torch"
