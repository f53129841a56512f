"""What a node program does while its ranks work: it copies their output, watches their signs of life and the clock."""

import io
import os
import sys
import threading
from types import SimpleNamespace

from sft import hostfile
from sft.host.launch import log
from sft.host.launch import node as launch
from sft.host.launch.heartbeat import Heartbeat
from sft.host.launch.link import Link
from sft.host.launch.log import Log
from sft.host.launch.node import Node
from sft.run import lifecycle
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
    began = run.state().hours_from
    run.update_state(attempt_started_at=began + 1800)  # as a restart half an hour later
    clocks = {"time": began + 86_400, "monotonic": 50.0}  # this node's clock is not that of the task
    for name in clocks:
        monkeypatch.setattr(launch.time, name, lambda name=name: clocks[name])
    node = Node(run, 0, Link(), SimpleNamespace())
    clocks["time"] -= 50_000  # a machine that gets its time from the network only now
    assert node.supervisor.time_is_over() is None
    clocks["monotonic"] += 1801
    assert node.supervisor.time_is_over() == "MAX_HOURS=1 have passed"
