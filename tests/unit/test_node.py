"""What a node program makes of what its ranks print, and that it always reads it."""

import io
import os
import sys
import threading
from types import SimpleNamespace

import pytest

from sft import hostfile
from sft.errors import between_ranks
from sft.host.launch import node as launch
from sft.host.launch.heartbeat import Heartbeat
from sft.host.launch.link import Link
from sft.host.launch.log import Log
from sft.host.launch.node import Node
from sft.host.launch.ranks import REASON_WAIT_S, Ranks
from sft.run import lifecycle
from tests.settings import decided

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:555] Connection closed by peer [127.0.0.1]:4713"
NCCL = "NCCL error in: NCCLUtils.cpp:94, unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version "
REMOTE = NCCL + "2.27.3 ncclRemoteError: A call failed possibly due to a network error or a remote process exiting"
SYSTEM = NCCL + "2.27.3 ncclSystemError: System call or external library call failed or device error."


def ranks(*lines):
    found = Ranks()
    for line in lines:
        found.read(line + "\n")
    return found


@pytest.mark.parametrize(
    ("text", "perhaps"),
    [
        (GLOO, True),
        ("Timed out waiting 15000ms for recv operation to complete", True),
        (REMOTE, True),
        (SYSTEM, True),
        (NCCL + "ncclUnhandledCudaError: Call to CUDA function failed. Last error: out of range", False),
        (
            "NCCL error: invalid usage, ncclInvalidUsage: Duplicate GPU detected : rank 1 and rank 0 both on 17000",
            False,
        ),
        ("Bootstrap : no socket interface found. NCCL error: internal error", False),
        ("NCCL: Bind to 10.0.0.1<37171> failed: Address already in use. Connection refused", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_an_error_that_can_only_be_a_ranks_own_is_told_from_one_that_may_follow_from_anothers(text, perhaps):
    assert between_ranks(text) is perhaps


def test_a_killed_rank_is_the_reason_though_its_peers_have_said_theirs_before():
    found = ranks(
        f"rank 1: error between ranks: RuntimeError: {GLOO}",
        "rank 1: exits with return code = 1",
        "rank 0: exits with return code = -9",
    )
    reason, wait_s = found.reason()
    assert reason.startswith("rank 0 was killed by signal 9") and wait_s == 0


def test_an_error_of_its_own_comes_before_the_loss_of_another_rank():
    lines = [
        f"rank 1: error between ranks: DistBackendError: {REMOTE}",
        "rank 1: exits with return code = 1",
        f"rank 0: error between ranks: DistBackendError: {SYSTEM}",
        "rank 0: exits with return code = 1",
    ]
    reason, wait_s = ranks(*lines).reason()
    assert reason == f"rank 0: DistBackendError: {SYSTEM}" and wait_s == REASON_WAIT_S
    reason, wait_s = ranks(*lines[:2]).reason()  # nobody knows better after twice that time: still better than a code
    assert reason == f"rank 1: DistBackendError: {REMOTE}" and wait_s == 2 * REASON_WAIT_S


def test_what_nccls_watchdog_says_before_it_aborts_a_rank_is_the_reason():
    found = ranks(
        "[rank2]:[E1126 03:27:01.1 ProcessGroupNCCL.cpp:2057] [PG ID 0 PG GUID 0(default_pg) Rank 2] Process group "
        "watchdog thread terminated with exception: CUDA error: an illegal memory access was encountered",
        "rank 2: exits with return code = -6",
    )
    assert found.reason()[0] == "rank 2: CUDA error: an illegal memory access was encountered"
    reason, wait_s = ranks("rank 2: exits with return code = -6").reason()
    assert reason == "rank 2 was killed by signal 6" and wait_s > 0  # NCCL aborts a rank that has lost another one, too


def test_a_line_that_standard_output_cannot_take_is_logged_and_escaped(tmp_path, monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii", errors="strict"))
    log = Log(tmp_path / "node-0.log")
    log.write("数 ü …\n")
    log.write("next\n")
    assert (tmp_path / "node-0.log").read_text(encoding="utf-8") == "数 ü …\nnext\n"
    assert shown.getvalue() == b"\\u6570 \\xfc \\u2026\nnext\n" and log.lost == 0


def test_ranks_are_read_to_the_end_whatever_breaks_for_a_line(tmp_path):
    log = SimpleNamespace(lost=0, lines=[])

    def write(line):
        if "bad" in line:
            raise RuntimeError("no such thing")
        log.lines.append(line)

    log.write = write
    node = SimpleNamespace(log=log, ranks=Ranks())
    read, write_end = os.pipe()
    pump = threading.Thread(target=Node.read, args=(node, os.fdopen(read, encoding="utf-8", errors="replace")))
    pump.start()
    with os.fdopen(write_end, "wb") as ranks_output:
        ranks_output.write(b"bad\n" * 50_000 + b"\xff no UTF-8\n" + b"x" * 200_000 + b"\nrank 0: done\n")
    pump.join(timeout=60)
    assert not pump.is_alive()
    assert node.ranks.done == {0} and log.lost == 50_000
    assert "a line of the ranks could not be logged: RuntimeError: no such thing" in log.lines


def test_an_export_of_ten_minutes_is_alive_by_default_and_a_hang_is_found(tmp_path, monkeypatch):
    settings = decided(runs_path=tmp_path, run_name="a")
    run = lifecycle.create(settings, hostfile.hostfile(1, 1))
    run.update_state("saving")
    clock = {"now": 1000.0}
    monkeypatch.setattr(launch.time, "monotonic", lambda: clock["now"])
    heartbeat = Heartbeat(run, settings.step_timeout_s)
    assert heartbeat.silence() == ""
    clock["now"] += 600
    assert heartbeat.silence() == ""
    run.update_state("training")
    assert heartbeat.silence() == ""
    clock["now"] += settings.step_timeout_s
    assert heartbeat.silence().startswith("no sign of the ranks within STEP_TIMEOUT_S=1800 seconds")


def test_a_clock_that_is_set_ends_no_run(tmp_path, monkeypatch):
    run = lifecycle.create(decided(runs_path=tmp_path, run_name="a", max_hours=1), hostfile.hostfile(1, 1))
    clocks = {"time": run.state().hours_from + 1800, "monotonic": 50.0}
    for name in clocks:
        monkeypatch.setattr(launch.time, name, lambda name=name: clocks[name])
    node = Node(run, 0, Link(), SimpleNamespace())
    clocks["time"] += 86_400  # a machine that gets its time from the network only now
    assert node.time_is_over() is None
    clocks["monotonic"] += 1801
    assert node.time_is_over() == "MAX_HOURS=1 are over"
