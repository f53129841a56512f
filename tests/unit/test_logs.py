"""The ends of the logs beside the reason of a failure."""

import pytest

from sft import hostfile
from sft.host.commands import logs
from sft.run import lifecycle
from tests.settings import decided


@pytest.fixture
def run(tmp_path):
    return lifecycle.create(decided(runs_path=tmp_path, run_name="a"), hostfile.hostfile(2, 2))


def test_a_failure_is_told_by_a_few_lines_of_each_node_without_the_launchers_own(run):
    reason = "node 1: a rank was killed by signal 9"
    run.update_state("failed", error=reason)
    launcher = [f"[2026-11-26 03:56:15,42{i}] [INFO] [launch.py:253:main] WORLD INFO {i}" for i in range(9)]
    steps = [f"step {i}/250  loss 3.5  [INFO] of the project's own" for i in range(9)]
    (run.logs / "node-0.log").write_text("\n".join([*steps, *launcher, f"node 0: {reason}", ""]))
    (run.logs / "node-1.log").write_text("\n".join([*launcher, f"node 1: {reason}", ""]))
    assert logs.ends(run) == {"node-0": steps[-logs.LAST :]}
