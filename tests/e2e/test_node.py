"""How a node program starts and ends."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest

from sft import hostfile
from sft.errors import RunFailed
from sft.host import gpus
from sft.host.launch import processes, ranks, signals
from sft.host.launch.link import Link
from sft.host.launch.node import Node
from sft.host.launch.processes import LAUNCHER
from sft.run import lifecycle, typed_json
from sft.run.records import Failure, RankEnd, RankExit
from sft.settings.load import DEMO_SETTINGS
from tests.processes import has_ended
from tests.settings import decided

from .project import ROOT, free_port

pytestmark = pytest.mark.real

UUIDS = ["GPU-8932f937-d72c-4106", "GPU-8932f9aa-0000-1111", "GPU-aaaa0000-1111-2222", "GPU-bbbb0000-1111-2222"]


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
    assert node.run.failure() == Failure(kind="crash", reason=reason, nodes=[0])


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


@pytest.fixture
def run(tmp_path):
    settings = decided(defaults=DEMO_SETTINGS, runs_path=tmp_path, run_name="a", master_port=free_port())
    return lifecycle.create(settings, hostfile.hostfile(2, 1))


def node_program(run, rank, **variables):
    """Start a node's program on a run as it is, and return how it ended."""
    command = [sys.executable, "-m", "sft.host.launch.node", "--run", str(run.path), "--node-rank", str(rank)]
    given = os.environ | variables
    return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("hostfile", "x", "'x' is not a hostfile line"),
        ("settings.json", "{", "is not valid JSON"),
        ("settings.json", None, "holds no settings that this version reads"),
    ],
)
def test_what_keeps_a_node_from_starting_is_the_reason_of_the_failure(run, name, content, reason):
    (run.path / name).unlink() if content is None else (run.path / name).write_text(content)
    done = node_program(run, 0)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    found = run.failure()
    assert found.kind == "user" and found.reason.startswith("node 0: ") and reason in found.reason


@pytest.mark.parametrize(("name", "value"), [("GLOO_SOCKET_IFNAME", "nosuch9"), ("TORCH_DISTRIBUTED_DEBUG", "on")])
def test_a_variable_that_only_this_node_has_wrong_is_the_reason_before_any_rank_is_started(run, name, value):
    done = node_program(run, 0, **{name: value})
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert run.failure().kind == "user" and run.failure().reason.startswith(f"node 0: {name}={value}: ")
    assert "[launch.py" not in "".join(path.read_text() for path in run.log_files())


def test_a_second_program_that_cannot_start_does_no_harm_to_a_run_at_work(run):
    with run.lock():
        for rank in (0, 7):
            assert node_program(run, rank).returncode == 2
    assert run.failure() is None


# A program that takes its time to start, and then says what its signals have asked for.
PROGRAM = """
import sys, time
print("up", flush=True)
sys.stdin.readline()
from sft.host.launch.node import Signals
heard = Signals()
print(heard.request.stop, heard.end_now)
"""


@pytest.mark.parametrize(("number", "said"), [(signal.SIGTERM, "SIGTERM False"), (signal.SIGQUIT, "SIGQUIT True")])
def test_a_signal_that_comes_before_a_node_can_understand_it_is_not_lost(number, said):
    with signals.blocked():
        node = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    assert node.stdout is not None and node.stdin is not None
    assert node.stdout.readline() == "up\n"
    node.send_signal(number)
    output, _ = node.communicate("go\n", timeout=300)
    assert (node.returncode, output.strip()) == (0, said)


RANK = """
import os, pathlib, sys
from sft.trainer import process
process.begin()
told = [os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "LOCAL_RANK")]
pathlib.Path(sys.argv[-1], os.environ["RANK"]).write_text(" ".join(told))
"""


def test_ranks_of_a_node_program_that_was_started_by_hand_get_the_cards_that_it_was_given(tmp_path, monkeypatch):
    cards = [
        gpus.Gpu(i, "NVIDIA GeForce RTX 4090", 0, 0.5, 24.0, 40, 50.0, "580.1", UUIDS[i], (8, 9)) for i in range(4)
    ]
    monkeypatch.setattr(gpus, "facts", lambda: cards)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    settings = decided("cuda", nodes=1, runs_path=tmp_path / "runs", run_name="a")
    node = Node(lifecycle.create(settings, hostfile.hostfile(1, 2)), 0, Link(), None)
    environment = node.processes.environment(LAUNCHER)
    (tmp_path / "ranks").mkdir()
    (tmp_path / "rank_program.py").write_text(RANK)
    world = base64.urlsafe_b64encode(json.dumps({"llm-master": [0, 1]}).encode()).decode()
    words = [f"--world_info={world}", "--node_rank=0", "--master_addr=127.0.0.1", "--master_port=29501"]
    done = subprocess.run(
        [sys.executable, "-m", LAUNCHER, *words, "--module", "rank_program", tmp_path / "ranks"],
        env=environment | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in "01":
        assert (tmp_path / "ranks" / rank).read_text() == f"{UUIDS[2]},{UUIDS[3]} PCI_BUS_ID {rank}"


def test_a_warning_of_a_library_ends_no_rank_whatever_the_users_shell_makes_of_warnings(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    run = lifecycle.create(decided(nodes=1, runs_path=tmp_path / "runs", run_name="a"), hostfile.hostfile(1, 1))
    environment = Node(run, 0, Link(), None).processes.environment(LAUNCHER)
    program = "import warnings; warnings.warn('this will change', FutureWarning)"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "this will change" in done.stderr


LAUNCHER_OF_ONE = """
import subprocess, sys
subprocess.run([sys.executable, "-m", "large_rank", *sys.argv[1:]])
"""
# The kernel frees a process's memory before it closes its files: the more memory, the longer it keeps the port.
LARGE_RANK = """
import mmap, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
memory = mmap.mmap(-1, 2**30)
for start in range(0, 2**30, 4096):
    memory[start] = 1
print("ready", flush=True)
listener.accept()
"""


@pytest.mark.parametrize("after", ["a failure", "the end of the launcher", "nothing"])
def test_a_node_that_has_ended_its_ranks_leaves_their_port_and_memory_to_the_next_attempt(node, tmp_path, after):
    (tmp_path / "launcher_of_one.py").write_text(LAUNCHER_OF_ONE)
    (tmp_path / "large_rank.py").write_text(LARGE_RANK)
    port, is_ready = free_port(), threading.Event()
    node.processes.note = lambda _: is_ready.set()
    node.processes.environment = lambda module: {
        **type(node.processes).environment(node.processes, module), "PYTHONPATH": str(tmp_path)
    }  # fmt: skip
    launcher = node.processes.start("launcher_of_one", str(port))
    assert is_ready.wait(60)
    (rank,) = psutil.Process(launcher.pid).children()
    if after == "a failure":
        processes.kill(launcher)
    elif after == "the end of the launcher":  # then a rank ends itself
        launcher.kill()
        rank.kill()
        launcher.wait()
    node.processes.end()
    socket.create_server(("127.0.0.1", port)).close()
    assert has_ended(rank)
    launcher.wait()
