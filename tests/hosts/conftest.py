"""Two hosts for all tests of this tier. Where none can be made they are skipped, with the remedy."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from tests.conftest import skip_tier
from tests.e2e.project import Project

from .network import Host, Network, why_not


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_tier(items, "hosts", why_not)


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    network = Network(tmp_path_factory.mktemp("hosts"))
    try:
        network.start()
        yield network
    finally:
        network.close()


@pytest.fixture(scope="session")
def first(network: Network) -> Host:
    return network.hosts[0]


@pytest.fixture(scope="session")
def second(network: Network) -> Host:
    return network.hosts[1]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, network: Network) -> Project:
    """The project in a folder that both hosts share; its commands are called on the first one."""
    project = Project(tmp_path_factory.mktemp("project"))
    project.launcher = "hosts"
    return on(network.hosts[0], project)


def on(host: Host, project: Project, program: str = "") -> Project:
    """Return the project with its commands called on a host, by `inv` or by another program."""
    there = copy.copy(project)
    there.invoke = [*host.enter, f"--wd={project.path}", program or project.invoke[-1]]
    return there
