"""A real engine and the project's own stack on it. Without an engine these tests are skipped, with the remedy."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from sft import ROOT
from sft.host.launch import docker_engine, image
from tests.conftest import skip_tier

from .stack import Stack

BUILD_TIMEOUT_S = 1200


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_tier(items, "compose", why_not)


def why_not() -> str | None:
    """Return why the stack cannot be brought up here, with the remedy."""
    if found := docker_engine.problem():
        return "; ".join(found)
    if not os.environ.get("BASE_IMAGE"):
        return "BASE_IMAGE is not set; `export BASE_IMAGE=$(.ci/base-image)` makes one without an image registry"
    return None


@pytest.fixture(scope="session", autouse=True)
def layers() -> None:
    """Build the image once, which takes minutes if the engine has no layer of it. The tests only tag it anew."""
    arguments = {"BASE_IMAGE": os.environ["BASE_IMAGE"], "TORCH_BACKEND": image.torch_backend()}
    given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    command = ["docker", "build", "--quiet", *given, "--file", "docker/Dockerfile", "."]
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=BUILD_TIMEOUT_S)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    stack = Stack()
    yield stack
    stack.remove()
