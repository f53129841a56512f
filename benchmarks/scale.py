"""How many nodes a run can have: node programs without ranks meet, wait and end on this machine.

    python -m benchmarks.scale 2 8 32 128 512

The node programs are the real ones, in a process each, forked from this one; in place of a node's ranks is one process
that waits (idle.py). This program takes the place of rank 0, which writes `state.json` twice a second. As root it takes
a network of its own, so that bytes are counted for nobody else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from benchmarks.idle import STARTED
from benchmarks.nodes import WAIT_S, Trial, made, opened

STATE_S = 0.5  # as rank 0 writes it
STRANGERS = 200


@dataclass
class Figures:
    """What one trial has shown. Times in seconds."""

    nodes: int
    harm: str
    start_s: float = 0.0  # until all programs have begun: this machine's two cores, not the run's cost
    meet_s: float = 0.0  # from then until node 0 starts its ranks, which it does when all are there
    cpu_percent: float = 0.0  # of a core, of node 0's program while the ranks are at work
    worker_cpu_percent: float = 0.0  # the same of the others, on average
    opens_per_second: float = 0.0  # files in the run directory that one other program opens, or tries to
    memory_mib: float = 0.0  # node 0's program, resident
    files: int = 0  # that node 0's program has open
    threads: int = 0  # of node 0's program
    meet_bytes: int = 0  # over the network, with headers, from the first program's start
    held_bytes_per_s: float = 0.0
    noticed_s: float = 0.0  # from the harm to failure.json
    end_s: float = 0.0  # from the harm, or from the end of the ranks, to the end of the last program
    status: str = ""
    error: str = ""
    codes: dict[int, int] = field(default_factory=dict)  # how many programs ended with each exit code


def wait(true: Callable[[], bool], what: str, trial: Trial) -> float:
    """Wait until something is so. Return when it was. Keep `state.json` alive as rank 0 does."""
    deadline, told_at = time.monotonic() + WAIT_S, 0.0
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{trial.nodes} nodes: {what}: {trial.run.failure()}")
        time.sleep(0.02)
        if time.monotonic() - told_at > STATE_S and not trial.run.ended and trial.run.failure() is None:
            told_at = time.monotonic()
            trial.run.tell(step=trial.run.state().step + 1, total_steps=1_000_000)
    return time.monotonic()


def network_bytes() -> int:
    """Return how many bytes have passed the loopback device."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.strip().startswith("lo:"))


def newest(folder: Path, pattern: str) -> float:
    """Return when the newest file was written, in seconds since 1970."""
    return max(path.stat().st_mtime for path in folder.glob(pattern))


@contextlib.contextmanager
def strangers(port: int) -> Iterator[None]:
    """Connect to a port as scanners do: some say nothing, some talk, some leave at once."""
    kept = []
    for number in range(STRANGERS):
        with contextlib.suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", port), 2)
            if number % 3 == 1:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n" * 100)
            if number % 3 == 2:
                connection.close()
            kept.append(connection)
    try:
        yield
    finally:
        for connection in kept:
            connection.close()


def tried(nodes: int, harm: str, runs: Path, hold_s: float, files: int = 0) -> Figures:
    """Run a trial: the nodes meet, wait, and end; meanwhile one is harmed as `harm` says.

    `files`: how many files a node's program may open unless it asks for more; 0: as many as this program.
    """
    trial, found = made(nodes, runs), Figures(nodes, harm)
    trial.files = files
    late = [nodes - 1] if harm == "late" else []
    middle = max(1, nodes // 2)
    try:
        bytes_before, began = network_bytes(), time.monotonic()
        with contextlib.ExitStack() as stack:
            trial.begin(0)
            if harm == "scanned":
                wait(lambda: listens(trial.port + 1), "listening", trial)
                stack.enter_context(strangers(trial.port + 1))
            for rank in range(1, nodes):
                if rank not in late:
                    trial.begin(rank)
            there = nodes - len(late)
            wait(lambda: len(list(trial.run.path.glob("node-*.json"))) == there, "beginning", trial)
            found.start_s = time.monotonic() - began
            if late:
                time.sleep(10)
                trial.begin(late[0])
            wait(lambda: trial.started() == nodes, "meeting", trial)
        begun = newest(trial.run.path, "node-*.json")
        found.meet_s = (trial.run.path / STARTED / "0").stat().st_mtime - begun
        found.meet_bytes = network_bytes() - bytes_before
        hold(trial, found, hold_s)
        harmed = time.monotonic()
        if harm == "killed":
            trial.process(middle).kill()
            found.noticed_s = wait(lambda: trial.run.failure_file.exists(), "noticing", trial) - harmed
        elif harm == "silent":  # for ten seconds, as a machine that swaps
            trial.process(middle).suspend()
            time.sleep(10)
            trial.process(middle).resume()
            time.sleep(5)
            harmed = time.monotonic()
        elif harm == "stopped":
            trial.run.request_stop("inv stop")
        if harm not in ("killed",):
            trial.end_ranks()
        found.end_s = wait(trial.have_ended, "ending", trial) - harmed
        found.status, found.error = trial.run.state().status, trial.run.state().error or ""
        said = (trial.run.path / "stderr").read_text()
        if "Traceback" in said:
            print(said[said.index("Traceback") :][:2000], file=sys.stderr)
        for code in trial.codes.values():
            found.codes[code] = found.codes.get(code, 0) + 1
    finally:
        trial.close()
    return found


def listens(port: int) -> bool:
    """Whether a program listens on a port, without connecting to it."""
    return any(one.laddr and one.laddr.port == port for one in psutil.net_connections("tcp"))


def hold(trial: Trial, found: Figures, seconds: float) -> None:
    """Measure what the programs take while the ranks are at work."""
    time.sleep(1)
    others = range(1, trial.nodes)
    bytes_before, cpu_before, began = network_bytes(), trial.cpu_s(0), time.monotonic()
    of_others, opens_before = sum(map(trial.cpu_s, others)), opened(trial)
    began_others = time.monotonic()
    until = began + seconds
    wait(lambda: time.monotonic() > until, "holding", trial)
    passed = time.monotonic() - began
    found.cpu_percent = 100 * (trial.cpu_s(0) - cpu_before) / passed
    found.held_bytes_per_s = (network_bytes() - bytes_before) / passed
    opens = opened(trial)
    found.opens_per_second = (opens[0] - opens_before[0]) / (opens[1] - opens_before[1])
    passed = time.monotonic() - began_others
    found.worker_cpu_percent = 100 * (sum(map(trial.cpu_s, others)) - of_others) / passed / len(others)
    master = trial.process(0)
    found.memory_mib = master.memory_info().rss / 2**20
    found.files, found.threads = master.num_fds(), master.num_threads()


def alone() -> None:
    """Start this program again in a network of its own, if that is possible."""
    if os.geteuid() == 0 and "SFT_SCALE_ALONE" not in os.environ and shutil.which("unshare") and shutil.which("ip"):
        os.environ["SFT_SCALE_ALONE"] = "1"
        again = [sys.executable, "-m", "benchmarks.scale", *sys.argv[1:]]
        script = 'ip link set lo up && exec "$@"'
        os.execvp("unshare", ["unshare", "--net", "sh", "-c", script, "sh", *again])


def main() -> None:
    """Print a line of JSON for each trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nodes", type=int, nargs="+", help="numbers of nodes")
    parser.add_argument(
        "--harm", nargs="+", default=["none"], choices=("none", "killed", "silent", "late", "scanned", "stopped")
    )
    parser.add_argument("--hold", type=float, default=10.0, help="seconds for which the ranks are at work")
    parser.add_argument("--files", type=int, default=0, help="limit of open files for each program (ulimit -n)")
    options = parser.parse_args()
    alone()
    print(f"# {platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for harm in options.harm:
            for nodes in options.nodes:
                print(json.dumps(asdict(tried(nodes, harm, Path(folder), options.hold, options.files))), flush=True)


if __name__ == "__main__":
    main()
