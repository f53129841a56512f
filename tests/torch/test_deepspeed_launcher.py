"""DeepSpeed's launcher, run without torch, starts and ends ranks as it does by itself."""

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sft.host.launch.deepspeed_launcher import RUN
from sft.run.directory import Run
from sft.run.records import RankExit

ROOT = Path(__file__).resolve().parents[2]
RANK = """
import json, os, pathlib, sys, time
folder, rank = pathlib.Path(sys.argv[-1]), os.environ["RANK"]
(folder / f".{rank}").write_text(json.dumps([sys.argv[1:-1], dict(os.environ)]))
(folder / f".{rank}").rename(folder / f"{rank}.json")  # the other rank ends this one as soon as it is there
if rank == "3":
    while not (folder / "2.json").exists():  # it would be ended with this one
        time.sleep(0.01)
    sys.exit(int(os.environ["END_WITH"]))
"""
# main() comes back only where all ranks have ended well.
PROGRAM = "import sys; from {package} import {module} as launcher; launcher.main(); print('torch' in sys.modules)"
WORLD = base64.urlsafe_b64encode(json.dumps({"llm-master": [0, 1], "llm-worker": [0, 1]}).encode()).decode()


def started(folder, package, module, end_with):
    """Return how the launcher of the second node ended, and the arguments and environments of its ranks."""
    folder.mkdir()
    (folder / "rank_program.py").write_text(RANK)
    given = {"DS_ACCELERATOR": "cpu", "END_WITH": str(end_with), "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    words = [f"--world_info={WORLD}", "--node_rank=1", "--master_addr=127.0.0.1", "--master_port=29501"]
    program = PROGRAM.format(package=package, module=module)
    done = subprocess.run(
        [sys.executable, "-c", program, *words, "--module", "rank_program", folder],
        env=os.environ | given, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    ranks = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    for _, environment in ranks.values():
        environment.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)  # a rank's own import of DeepSpeed sets it too
        del environment["PYTHONPATH"]
    return done, ranks


@pytest.mark.parametrize("end_with", [0, 3])
def test_ranks_start_and_end_as_under_deepspeeds_own(tmp_path, end_with):
    ours, our_ranks = started(tmp_path / "ours", "sft.host.launch", "deepspeed_launcher", end_with)
    theirs, their_ranks = started(tmp_path / "theirs", "deepspeed.launcher", "launch", end_with)
    assert sorted(our_ranks) == ["2.json", "3.json"] and our_ranks == their_ranks
    assert ours.returncode == theirs.returncode == end_with
    for done, has_torch in ((ours, False), (theirs, True)):
        if end_with:
            assert "exits with return code = 3" in done.stdout
        else:
            assert done.stdout.count("exits successfully") == 2
            assert done.stdout.splitlines()[-1] == str(has_torch)


# A rank that ends when its file is there, with the code in it.
WAITING = """
import os, pathlib, sys, time
path = pathlib.Path(sys.argv[-1]) / os.environ["RANK"]
while not path.exists():
    time.sleep(0.01)
sys.exit(int(path.read_text()))
"""


@pytest.fixture
def launcher(tmp_path):
    (tmp_path / "rank_program.py").write_text(WAITING)
    Run(tmp_path).ranks.mkdir()
    words = [f"--world_info={WORLD}", "--node_rank=0", "--module", "rank_program", tmp_path]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "sft.host.launch.deepspeed_launcher", *words], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", RUN: str(tmp_path)}, start_new_session=True,
    )  # fmt: skip
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def lines_until(process, words):
    """Return a process's lines to the first one that has the words."""
    lines = []
    while not lines or words not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], lines
    return lines


def pid_of_next(launcher):
    return int(re.search(r"process (\d+) spawned", lines_until(launcher, "spawned with command")[-1])[1])


def end(folder, rank, code):
    (folder / ".new").write_text(str(code))
    (folder / ".new").rename(folder / str(rank))


def test_a_signal_to_it_takes_no_rank_with_it(launcher, tmp_path):
    lines_until(launcher, "spawned with command")
    lines_until(launcher, "spawned with command")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        launcher.send_signal(number)
    end(tmp_path, 0, 0)
    lines_until(launcher, "exits successfully")  # its next look at the ranks: the signals are behind it
    end(tmp_path, 1, 0)
    assert "exits successfully" in launcher.communicate(timeout=300)[0] and launcher.returncode == 0


def test_a_rank_that_breaks_is_told_of_at_once_and_the_others_live(launcher, tmp_path):
    run = Run(tmp_path)
    pids = [
        int(re.search(r"process (\d+) spawned", lines_until(launcher, "spawned with command")[-1])[1]) for _ in "01"
    ]
    end(tmp_path, 1, 7)
    lines_until(launcher, "rank 1: exits with return code = 7")
    while run.rank_exit(1) is None:  # the node program reads it
        time.sleep(0.01)
    assert run.rank_exit(1) == RankExit(pid=pids[1], code=7) and run.rank_exit(0) is None
    end(tmp_path, 0, 0)
    output, _ = launcher.communicate(timeout=300)
    assert launcher.returncode == 7, output
    assert run.rank_exit(0) == RankExit(pid=pids[0], code=0)


def test_a_rank_that_is_killed_is_told_of_by_its_signal(launcher, tmp_path):
    pid = pid_of_next(launcher)
    os.kill(pid, signal.SIGKILL)
    lines_until(launcher, "rank 0: exits with return code = -9")
    while Run(tmp_path).rank_exit(0) is None:
        time.sleep(0.01)
    assert Run(tmp_path).rank_exit(0) == RankExit(pid=pid, code=-9)
