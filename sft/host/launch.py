"""The node program: `python -m sft.host.launch --run runs/NAME --node-rank R`, the same under every launcher.

Node 0 makes data and model ready; then every node starts DeepSpeed's launcher for its own ranks, writes their log,
and ends only when none of its processes is left. No exit code of the launcher is believed: it can be 0 with dead
ranks (docker/FACTS.md). Every rank says `rank N: done` at its clean end, and those lines are counted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import IO, Any

import psutil

from sft import cluster
from sft.errors import RunFailed, SftError, UserError
from sft.host import gpus
from sft.run import Run

POLL_S = 0.2
# After a failure the other ranks get this long to end by themselves, and another node this long to say the reason.
FAILURE_GRACE_S = 10.0
REASON_WAIT_S = 5.0


def main() -> None:
    """Run one node. Exit code 0: finished or stopped; 1: the run failed; 2: the user can mend it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the run directory")
    parser.add_argument("--node-rank", type=int, required=True, help="0 is the master")
    arguments = parser.parse_args()
    run = Run(arguments.run.resolve())
    try:
        Node(run, arguments.node_rank).work()
    except SftError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


class Log:
    """A node's log: every line goes to `logs/node-R.log` and to standard output, without secrets."""

    def __init__(self, path: Path, secrets: list[str]) -> None:
        """Append to the log in `path`; the values in `secrets` never reach it."""
        self.file = path.open("a", encoding="utf-8", buffering=1)
        self.secrets = secrets

    def write(self, line: str) -> None:
        """Write one line. A full disk costs the line, never the run: the ranks would block on a full pipe."""
        for secret in self.secrets:
            line = line.replace(secret, "***")
        for stream in (self.file, sys.stdout):
            try:
                stream.write(line.rstrip("\n") + "\n")
                stream.flush()
            except OSError:
                continue


class Node:
    """One node's share of a run."""

    def __init__(self, run: Run, rank: int) -> None:
        """Read the run directory. Raises UserError for a hostfile or a rank that cannot be right."""
        self.run, self.rank = run, rank
        self.settings = run.settings()
        slots = cluster.read_hostfile(run.hostfile)
        if not 0 <= rank < len(slots):
            raise UserError(f"--node-rank={rank}: the hostfile has {len(slots)} nodes; use 0 to {len(slots) - 1}")
        self.slots = list(slots.values())[rank]
        self.log = Log(run.logs / f"node-{rank}.log", list(self.settings.secrets().values()))
        self.parent = os.getppid()
        self.signals = 0
        self.end_now = False
        self.done_ranks: set[int] = set()
        self.rank_exit_code: int | None = None

    def work(self) -> None:
        """Prepare, train, clean up. Raises RunFailed."""
        lock = self.run.lock() if self.rank == 0 else None
        if self.rank == 0 and lock is None:
            raise UserError(f"{self.run.path}: is running already; watch it with `inv monitor`")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, self.on_signal)
        try:
            if self.inputs_are_ready():
                self.train()
        except BaseException as error:
            self.run.fail(f"node {self.rank}: {error}")
            raise
        finally:
            self.end_what_is_left()
            reason = self.run.failure()
            # The first node says how the run ended; another one does where the first is gone.
            if reason is not None and not self.run.ended and (self.rank == 0 or not self.run.is_running()):
                self.run.update_state("failed", error=reason)
            if lock:
                lock.close()

    # Signals

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """The first signal asks the run to save and stop; a second one, or SIGQUIT, ends it at once."""
        self.signals += 1
        self.end_now = self.end_now or self.signals > 1 or number == signal.SIGQUIT

    def stop_if_asked(self) -> None:
        """Pass a signal on to all ranks as a stop request, and so the end of whoever started this node."""
        if (self.signals or os.getppid() != self.parent) and self.run.stop_reason() is None:
            who = "a signal to" if self.signals else "the end of what started"
            self.run.request_stop(f"{who} node {self.rank}")

    # Preparing

    def inputs_are_ready(self) -> bool:
        """Make data and model ready on node 0, wait for them elsewhere; False where the run is stopped before."""
        if self.rank == 0:
            return self.prepare()
        while not self.run.prepared.is_file():
            self.stop_if_asked()
            if self.end_now or self.run.ended:
                return False
            if self.run.failure() is not None:
                raise RunFailed(f"node {self.rank}: {self.run.failure()}")
            time.sleep(POLL_S)
        return True

    def prepare(self) -> bool:
        """Run the program that prepares the inputs; False where the run is stopped while it works."""
        self.run.update_state("preparing")
        process = self.start("sft.trainer.prepare", "--run", str(self.run.path))
        while process.poll() is None:
            self.stop_if_asked()
            if self.end_now or self.run.stop_reason() is not None:
                self.kill(process)
            time.sleep(POLL_S)
        if self.run.prepared.is_file():
            return True
        if self.end_now or self.run.stop_reason() is not None:
            self.run.update_state("stopped")
            return False
        self.run.fail(f"node 0: preparing {ended_with(process.returncode)}; logs/node-0.log says more")
        raise RunFailed(str(self.run.failure()))

    # Training

    def train(self) -> None:
        """Run DeepSpeed's launcher with this node's ranks to the end. Raises RunFailed."""
        process = self.start(
            "deepspeed.launcher.runner",
            "--hostfile", str(self.run.hostfile), "--no_ssh", "--node_rank", str(self.rank),
            "--master_addr", "127.0.0.1", "--master_port", str(self.settings.master_port),
            "--module", "sft.trainer.train", "--run", str(self.run.path),
        )  # fmt: skip
        failed_at = None
        while process.poll() is None:
            self.stop_if_asked()
            if failed_at is None and self.run.failure() is not None:
                failed_at = time.monotonic()
            if self.end_now or (failed_at and time.monotonic() - failed_at > FAILURE_GRACE_S):
                self.kill(process)
            time.sleep(POLL_S)
        self.pump.join(timeout=5)
        if len(self.done_ranks) == self.slots:
            return
        if self.end_now:
            if self.rank == 0:
                self.run.update_state("stopped")
            return
        reason, is_certain = self.what_happened(process.returncode)
        if not is_certain:  # a rank that only lost another one says nothing: wait for the one that knows
            deadline = time.monotonic() + REASON_WAIT_S
            while not self.run.failure() and time.monotonic() < deadline:
                time.sleep(POLL_S)
        self.run.fail(reason)
        raise RunFailed(f"node {self.rank}: {self.run.failure()}")

    def what_happened(self, launcher_code: int) -> tuple[str, bool]:
        """Return why this node's ranks are not done, and whether that is the cause rather than a consequence."""
        code, where = self.rank_exit_code, f"logs/node-{self.rank}.log says more"
        if code is not None:
            hint = " (often for want of memory: `dmesg` tells)" if code == -signal.SIGKILL else ""
            return f"node {self.rank}: a rank {ended_with(code)}{hint}; {where}", code < 0
        return f"node {self.rank}: the launcher {ended_with(launcher_code)} before its ranks were done; {where}", True

    # Processes

    def start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a program in a session of its own, its output going to the log."""
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", module, *arguments],
            env=self.environment(module),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.pump = threading.Thread(target=self.read, args=(process.stdout,), daemon=True)
        self.pump.start()
        return process

    def read(self, stream: IO[str]) -> None:
        """Copy a program's output to the log, and note what it says about the ranks."""
        for line in stream:
            self.log.write(line)
            if match := re.fullmatch(r"rank (\d+): done", line.strip()):
                self.done_ranks.add(int(match[1]))
            if match := re.search(r"exits with return code = (-?\d+)", line):
                self.rank_exit_code = int(match[1])

    def environment(self, module: str) -> dict[str, str]:
        """Return the environment of a program of this node. What the user has set stays."""
        ours = {
            "SFT_NODE_PID": str(os.getpid()),  # tells this node's processes, and ends them without it
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        default = {
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.slots)),
            "TQDM_DISABLE": "1",  # bars are for terminals, this goes to a log
            "PYTHONWARNINGS": "ignore::FutureWarning:torch.distributed.c10d_logger",  # DeepSpeed's calls, one a rank
        }
        if module == "deepspeed.launcher.runner":
            ours["HF_HUB_OFFLINE"] = "1"  # everything is here by now
        if self.settings.device == "cpu":
            ours["DS_ACCELERATOR"] = "cpu"
        else:
            default["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
            if gpus.have_no_peer_access(gpus.visible()):
                default |= {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}
        return default | dict(os.environ) | ours

    def kill(self, process: subprocess.Popen[Any]) -> None:
        """End a program and everything in its session at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end_what_is_left(self) -> None:
        """End every process that this node started, wherever it went: known by its environment."""
        mine = str(os.getpid())
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get("SFT_NODE_PID") == mine:
                    process.kill()
            except psutil.Error:
                continue  # gone by now, or of another user


def ended_with(code: int) -> str:
    """Return an exit code in words."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


if __name__ == "__main__":
    main()
