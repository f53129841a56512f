"""A cluster for all tests of this tier. Without Slurm they are skipped, with the remedy."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import skip_tier
from tests.e2e.project import Project

from .cluster import Cluster, why_not


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_tier(items, "slurm", why_not)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Project:
    project = Project(tmp_path_factory.mktemp("project"))
    project.launcher = "slurm"
    return project


@pytest.fixture(autouse=True)
def idle(cluster: Cluster) -> Iterator[None]:
    """No test meets another one's job, even if that one failed."""
    yield
    subprocess.run(["scancel", "--user=root"], check=False, stderr=subprocess.DEVNULL)
    cluster.wait_for_idle()
