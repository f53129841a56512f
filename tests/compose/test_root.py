"""Root, as on rented machines: its containers run as another user, by the tasks and by hand, and its own files stay."""

import os

import pytest

from sft.host import ownership
from sft.run.directory import Run
from tests.e2e.project import small

from .stack import NODES, Stack, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the tasks called by root: run the tests as root")
SETTINGS = small(GPUS_PER_NODE=1, MAX_STEPS=2, SAVE_STEPS=1)
ROWS = '{"question": "1 + 1?", "answer": "2"}\n' * 20


@pytest.fixture
def roots():
    stack = Stack(as_root=True)
    yield stack
    stack.remove()


def test_root_trains_by_the_tasks_and_by_hand(roots, monkeypatch):
    mine, earlier = roots.path / "data" / "mine.jsonl", roots.path / "runs" / "earlier" / "state.json"
    for path in (mine, earlier):
        path.parent.mkdir(parents=True)
        path.write_text(ROWS)
    settings = SETTINGS | {"DATASET": "data/mine.jsonl"}
    roots.env_file(**{name: value for name, value in settings.items() if name != "LAUNCHER"})
    done = roots.inv("setup", **settings)
    assert done.returncode == 0, done.stdout
    assert "containers run as user 1000" in done.stdout and ".env belongs to user 1000" in done.stdout
    done = roots.inv("train", **settings | {"RUN_NAME": "tasks", "MAX_LENGTH": 64})  # data that is prepared anew
    assert done.returncode == 0, done.stdout
    by_hand = roots.compose(monkeypatch)
    by_hand.start()

    def states():
        return {found.State for found in by_hand.get_containers(include_all=True)}

    wait_for(lambda: states() == {"exited"}, 600, every_s=1)
    latest = Run(roots.path / "runs" / os.readlink(roots.path / "runs" / "latest"))
    assert latest.name != "tasks", roots.docker("compose", "logs", NODES[0])
    assert latest.state().status == "finished", roots.docker("compose", "logs", NODES[0])
    ours = (roots.path / "runs" / name / "state.json" for name in ("tasks", latest.name))
    assert {path.stat().st_uid for path in ours} == {ownership.DEFAULT_UID}
    assert {path.stat().st_uid for path in (mine, earlier)} == {0}
