"""Two hosts for all tests of this tier. Where none can be made they are skipped, with the remedy."""

from __future__ import annotations

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
    project.invoke = on(network.hosts[0], project)
    return project


def on(host: Host, project: Project) -> list[str]:
    """Return the beginning of a command of the project on a host."""
    return [*host.enter, f"--wd={project.path}", project.invoke[-1]]
