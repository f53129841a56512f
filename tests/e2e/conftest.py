"""One copy of the project for all end-to-end tests: its prepared data and tiny model are made once."""

import pytest

from .project import Project


def pytest_collection_modifyitems(items):
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("project"))
    yield project
    for process in project.processes():
        process.kill()


@pytest.fixture(scope="session")
def base(project):
    """A finished run of twelve steps over two nodes, which others are compared with."""
    return project.train("base", GLOBAL_BATCH_SIZE=8, BATCH_SIZE=2, WEIGHT_DECAY=0.1, WARMUP_RATIO=0.2)
