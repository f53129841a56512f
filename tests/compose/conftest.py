"""A real engine and the project's own stack on it. Without an engine these tests are skipped, with the remedy."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from sft.host.launch import docker_engine
from tests.conftest import skip_tier

from .stack import Stack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_tier(items, "compose", why_not)


def why_not() -> str | None:
    """Return why the stack cannot be brought up here, with the remedy."""
    if found := docker_engine.problem():
        return "; ".join(found)
    if not os.environ.get("BASE_IMAGE"):
        return "BASE_IMAGE is not set; `export BASE_IMAGE=$(.ci/base-image)` makes one without an image registry"
    return None


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    stack = Stack()
    yield stack
    stack.remove()
