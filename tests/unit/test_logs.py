"""The ends of the logs beside the reason of a failure."""

import io

import pytest
from rich.console import Console

from sft import hostfile
from sft.errors import UserError
from sft.host.commands import logs
from sft.run import lifecycle, typed_json
from sft.run.records import Failure, NodeInfo
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


def test_what_earlier_attempts_said_is_not_shown_as_the_end_of_this_one(run):
    """After a restart, the error of the attempt before stood beside another reason."""
    log = run.logs / "node-0.log"
    log.write_text("RuntimeError: of the first attempt\nhalf a li")
    lifecycle.reopen(run, run.settings(), again=True)
    assert logs.ends(run) == {}
    with log.open("a") as file:
        file.write("ValueError: of the second\n")
    assert logs.ends(run) == {"node-0": ["ValueError: of the second"]}
    assert printed(run, lines=4)[1:3] == ["node-0 | half a li", "node-0 | " + log.read_text().splitlines()[2]]
    assert log.read_text().splitlines()[2].startswith("--- attempt 2, ")


def printed(run, **options):
    text = io.StringIO()
    logs.logs(run, Console(file=text, width=200), **({"follow": False, "lines": 1} | options))
    return text.getvalue().splitlines()


@pytest.fixture
def many(tmp_path):
    """A run of 40 nodes, whose node 17 broke."""
    run = lifecycle.create(decided(runs_path=tmp_path, run_name="many"), hostfile.hostfile(40, 2))
    for number in range(40):
        (run.logs / f"node-{number}.log").write_text(f"first\nthe end of {number}\n")
        ranks = [2 * number, 2 * number + 1]
        typed_json.write(run.node_file(number), NodeInfo(name=f"n{number}", host="h", ranks=ranks, gpus=[]), False)
    return run


def test_of_many_nodes_the_logs_of_those_that_a_failure_is_about_are_shown(many):
    assert printed(many)[:-1] == ["node-0 | the end of 0"] and printed(many)[-1].startswith(
        "39 more nodes: `make logs "
    )
    many.end_as_failed(Failure(kind="crash", reason="broken", rank=61, nodes=[17]))
    lines = printed(many)
    assert lines[:3] == [f"node-{number} | the end of {number}" for number in (17, 30, 0)] and len(lines) == 4
    assert list(logs.ends(many)) == ["node-17", "node-30", "node-0"]


def test_node_says_whose_logs_are_shown(many):
    assert printed(many, node="3, 5") == ["node-3 | the end of 3", "node-5 | the end of 5"]
    assert len(printed(many, node="all", lines=0)) == 80
    with pytest.raises(UserError, match=r"NODE=3,40: 40 is not one of them: this run has the logs of nodes 0 to 39; "):
        printed(many, node="3,40")
    with pytest.raises(UserError, match=r"NODE=,: nothing is not one of them"):
        printed(many, node=",")
