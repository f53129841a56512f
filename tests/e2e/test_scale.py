"""Real node programs without ranks: they meet, wait and end, and the loss of one ends the others."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from .project import ROOT

NODES = 12


def tried(harm: str, *more: str) -> dict[str, object]:
    """Return the figures of a trial."""
    command = [sys.executable, "-m", "benchmarks.scale", str(NODES), "--hold", "2", "--harm", harm, *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("harm", ["none", "scanned"])
def test_nodes_meet_wait_and_end_whoever_else_comes_to_the_port(harm):
    """With a limit of 64 open files, which is too few for the strangers: node 0 asks for more."""
    took = []
    # One at a time, every 0.2 s, they would need 2.4 s more. Other tests may have the cores once, and not every time.
    while not took or min(took) >= 2.4:
        assert len(took) < 3, took
        found = tried(harm, "--files", "64")
        assert (found["status"], found["codes"]) == ("finished", {"0": NODES})
        took.append(found["meet_s"])


def test_a_node_that_is_killed_ends_the_others_with_one_reason():
    found = tried("killed")
    assert found["status"] == "failed" and found["codes"] == {"-9": 1, "1": NODES - 1}
    assert str(found["error"]).startswith("node 0: lost node 6 (its program is gone)")
