"""What a node program does while its ranks work: it copies their output, watches their signs of life and the clock."""

import io
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from sft import hostfile
from sft.errors import RunFailed
from sft.host.launch import log, ranks
from sft.host.launch import node as launch
from sft.host.launch.heartbeat import Heartbeat
from sft.host.launch.link import Link
from sft.host.launch.log import Log
from sft.host.launch.node import Node
from sft.run import lifecycle, typed_json
from sft.run.records import Failure, RankEnd, RankExit
from tests.settings import decided


def test_a_line_that_standard_output_cannot_take_is_logged_and_escaped(tmp_path, monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii", errors="strict"))
    log = Log(tmp_path / "node-0.log")
    log.write("数 ü …\n")
    log.write("next\n")
    assert (tmp_path / "node-0.log").read_text(encoding="utf-8") == "数 ü …\nnext\n"
    assert shown.getvalue() == b"\\u6570 \\xfc \\u2026\nnext\n" and log.lost == 0


def test_output_is_read_to_the_end_whatever_breaks_for_a_line():
    output, noted = SimpleNamespace(lost=0, lines=[]), []

    def write(line):
        if "bad" in line:
            raise RuntimeError("no such thing")
        output.lines.append(line)

    output.write = write
    read, write_end = os.pipe()
    stream = os.fdopen(read, encoding="utf-8", errors="replace")
    pump = threading.Thread(target=log.copy, args=(stream, output, noted.append))
    pump.start()
    with os.fdopen(write_end, "wb") as ranks_output:
        ranks_output.write(b"bad\n" * 50_000 + b"\xff no UTF-8\n" + b"x" * 200_000 + b"\nthe last line\n")
    pump.join(timeout=60)
    assert not pump.is_alive()
    assert noted[-1] == output.lines[-1] == "the last line\n" and output.lost == 50_000
    assert "a line of the ranks could not be logged: RuntimeError: no such thing" in output.lines


def test_an_export_of_ten_minutes_is_alive_by_default_and_a_hang_is_found(tmp_path, monkeypatch):
    settings = decided(runs_path=tmp_path, run_name="a")
    run = lifecycle.create(settings, hostfile.hostfile(1, 1))
    run.update_state("saving")
    clock = {"now": 1000.0}
    monkeypatch.setattr(launch.time, "monotonic", lambda: clock["now"])
    heartbeat = Heartbeat(run, settings.step_timeout_s)
    assert heartbeat.failure() is None
    clock["now"] += 600
    assert heartbeat.failure() is None
    run.update_state("training")
    assert heartbeat.failure() is None
    clock["now"] += settings.step_timeout_s
    found = heartbeat.failure()
    assert found.kind == "hang"
    assert found.reason.startswith("no sign of the ranks within STEP_TIMEOUT_S=1800 seconds")


def test_a_clock_that_is_set_ends_no_run(tmp_path, monkeypatch):
    run = lifecycle.create(decided(runs_path=tmp_path, run_name="a", max_hours=1), hostfile.hostfile(1, 1))
    clocks = {"time": run.state().hours_from + 1800, "monotonic": 50.0}
    for name in clocks:
        monkeypatch.setattr(launch.time, name, lambda name=name: clocks[name])
    node = Node(run, 0, Link(), SimpleNamespace())
    clocks["time"] += 86_400  # a machine that gets its time from the network only now
    assert node.supervisor.time_is_over() is None
    clocks["monotonic"] += 1801
    assert node.supervisor.time_is_over() == "MAX_HOURS=1 have passed"


@pytest.fixture
def node(tmp_path):
    """A node of two ranks, whose launcher is any program."""
    run = lifecycle.create(decided(runs_path=tmp_path, run_name="a"), hostfile.hostfile(1, 2))
    return Node(run, 0, Link(), SimpleNamespace(end_now=False, who=lambda: None))


def program(code):
    return subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"], text=True)


def test_a_launcher_that_ends_with_0_before_its_ranks_are_done_is_a_failure(node):
    node.run.note_end(0, RankEnd(status="finished"))
    with pytest.raises(RunFailed) as caught:
        node.train(program(0))
    reason = "node 0: the launcher ended with exit code 0 before its ranks were done; logs/node-0.log says more"
    assert str(caught.value) == reason and caught.value.exit_code == 1
    assert node.run.failure() == Failure(kind="crash", reason=reason)


@pytest.mark.parametrize("code", [0, 1, 247])
def test_ranks_that_have_said_that_they_are_done_are_believed_whatever_the_launchers_exit_code_is(node, code):
    for rank, status in enumerate(("finished", "stopped")):
        node.run.note_end(rank, RankEnd(status=status))
    node.train(program(code))
    assert node.run.failure() is None


@pytest.mark.parametrize(("kind", "exit_code"), [("user", 2), ("out_of_memory", 1), ("crash", 1)])
def test_a_node_ends_with_the_exit_code_of_the_kind_of_failure(node, kind, exit_code):
    failure = Failure(kind=kind, reason="rank 1: the first reason", rank=1)
    node.run.fail(failure)
    node.run.note_end(1, RankEnd(status="failed", failure=failure))
    typed_json.write(node.run.exit_file(1), RankExit(pid=1, code=1))
    with pytest.raises(RunFailed, match=r"^rank 1: the first reason$") as caught:
        node.train(program(1))
    assert caught.value.exit_code == exit_code


def test_a_rank_that_only_lost_another_one_is_the_reason_when_nobody_has_a_better_one_in_time(node, monkeypatch):
    monkeypatch.setattr(ranks, "REASON_WAIT_S", 0.3)
    failure = Failure(kind="lost_rank", reason="rank 1: RuntimeError: Connection closed by peer", rank=1)
    node.run.note_end(1, RankEnd(status="failed", failure=failure))
    typed_json.write(node.run.exit_file(1), RankExit(pid=1, code=1))
    started = time.monotonic()
    with pytest.raises(RunFailed):
        node.train(program(1))
    assert time.monotonic() - started >= 0.6
    found = node.run.failure()
    assert (found.kind, found.rank) == ("lost_rank", 1)
    assert found.reason == f"node 0: {failure.reason}; logs/node-0.log says more"
