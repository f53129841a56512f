"""Root, as on rented machines: its containers run as another user, by the tasks and by hand, and its own files stay."""

import os

import pytest

from sft.host import ownership
from sft.run import Run
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
    mine = roots.path / "data" / "mine.jsonl"
    mine.parent.mkdir()
    mine.write_text(ROWS)
    settings = SETTINGS | {"DATASET": "data/mine.jsonl"}
    roots.env_file(**{name: value for name, value in settings.items() if name != "LAUNCHER"})
    done = roots.inv("setup", **settings)
    assert done.returncode == 0, done.stdout
    assert "containers run as user 1000" in done.stdout and ".env belongs to user 1000" in done.stdout
    local = roots.inv("train", **settings | {"RUN_NAME": "local", "LAUNCHER": "local"})
    assert local.returncode == 0, local.stdout
    done = roots.inv("train", **settings | {"RUN_NAME": "tasks", "MAX_LENGTH": 64})  # data that is prepared anew
    assert done.returncode == 0, done.stdout
    by_hand = roots.compose(monkeypatch)
    by_hand.start()

    def states():
        return {found.State for found in by_hand.get_containers(include_all=True)}

    wait_for(lambda: states() == {"exited"}, 180)
    latest = Run(roots.path / "runs" / os.readlink(roots.path / "runs" / "latest"))
    assert latest.name not in ("local", "tasks"), roots.docker("compose", "logs", NODES[0])
    assert latest.state()["status"] == "finished", roots.docker("compose", "logs", NODES[0])
    owners = {
        name: (roots.path / "runs" / name / "state.json").stat().st_uid for name in ("local", "tasks", latest.name)
    }
    assert owners == {"local": 0, "tasks": ownership.DEFAULT_UID, latest.name: ownership.DEFAULT_UID}
    assert mine.stat().st_uid == 0
