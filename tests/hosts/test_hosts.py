"""A run over two hosts without a scheduler: the same as on one, refused where it cannot be, and never left hanging."""

from __future__ import annotations

import pytest

from sft.run.directory import Run
from tests.e2e.project import CURVE, Project, metrics, small

HOSTS = {"HOSTS": "hostA,hostB"}


@pytest.fixture(scope="session")
def at_home(project: Project) -> Run:
    """The same run on one machine."""
    return project.train("at-home", LAUNCHER="local")


def same(run: Run, other: Run) -> None:
    assert metrics(run, *CURVE) == metrics(other, *CURVE)
    ours, theirs = (one.final / "model.safetensors" for one in (run, other))
    assert ours.read_bytes() == theirs.read_bytes()


def test_two_hosts_train_what_one_machine_trains(project, at_home):
    run = project.train("abroad", **HOSTS)
    assert [node.host for node in run.nodes()] == ["hostA", "hostB"]
    assert "hostB slots=1" in run.hostfile.read_text()
    same(run, at_home)
    project.wait_for_no_process()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"HOSTS": "hostA,nosuch"}, "HOSTS=nosuch: ssh: Could not resolve hostname nosuch"),
        ({"HOSTS": "hostA,hostA"}, "names hostA twice"),
        ({"HOSTS": "hostA,-oProxyCommand=x"}, "is not a host such as"),
        ({"HOSTS": ""}, "HOSTS=: is empty"),
        ({"HOSTS": "hostA,hostB", "NODES": 3}, "NODES=3: HOSTS names 2 hosts"),
        ({"HOSTS": "./nosuch"}, "HOSTS=./nosuch: "),
    ],
)
def test_hosts_that_cannot_be_are_refused(project, settings, message):
    done = project.inv("train", **small(RUN_NAME="wrong", **settings))
    assert done.returncode == 2 and message in done.stdout and "Traceback" not in done.stdout, done.stdout
    assert not (project.path / "runs" / "wrong").exists()
