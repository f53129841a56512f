"""What a rank does by itself, and what it says."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RANK = "import time; from sft.trainer import process; process.begin(); time.sleep(600)"


def test_a_rank_without_its_node_ends_even_if_nobody_reads_what_it_says():
    node = subprocess.Popen([sys.executable, "-c", ""])
    node.wait()
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "SFT_NODE_PID": str(node.pid)}
    rank = subprocess.Popen([sys.executable, "-c", RANK], stdout=write, stderr=write, env=environment, cwd=ROOT)
    os.close(write)
    try:
        assert rank.wait(timeout=300) == -signal.SIGKILL
    finally:
        rank.kill()


def test_a_rank_that_can_open_no_file_does_not_take_its_node_for_dead():
    program = (
        "import os, resource; from sft.trainer.process import is_alive\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "print(is_alive(os.getppid()))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


def test_a_rank_that_is_asked_for_its_stacks_while_python_ends_does_not_die_of_it():
    program = (
        "import faulthandler, os, signal; from sft.trainer import process\n"
        "process.begin()\n"
        "faulthandler.unregister(signal.SIGUSR1)  # as Python does at its end\n"
        "os.kill(os.getpid(), signal.SIGUSR1)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_rank_writes_its_stacks_also_if_a_library_has_taken_the_signal_for_itself(tmp_path):
    program = (
        "import ctypes, time; from sft.trainer import process\n"
        "process.begin()\n"
        "ctypes.CDLL(None).signal(10, ctypes.cast(ctypes.CDLL(None).abs, ctypes.c_void_p))  # does nothing\n"
        "print('taken', flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "RANK": "0", "SFT_LOGS": str(tmp_path)}
    rank = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment, cwd=ROOT)
    stacks, deadline = tmp_path / "stacks-rank-0.txt", time.monotonic() + 60
    try:
        rank.stdout.readline()
        while not stacks.read_text() and time.monotonic() < deadline:
            rank.send_signal(signal.SIGUSR1)
            time.sleep(0.1)
        assert "most recent call first" in stacks.read_text()
    finally:
        rank.kill()
        rank.wait()
