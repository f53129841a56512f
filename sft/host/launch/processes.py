"""The processes of one node: DeepSpeed's launcher with its ranks, and the program that prepares the inputs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from sft import resources
from sft.host import gpus
from sft.host.gpus import Gpu
from sft.host.launch import interface, log, signals
from sft.host.launch.deepspeed_launcher import RUN
from sft.host.launch.link import master_address
from sft.host.launch.log import Log
from sft.run.directory import Run
from sft.settings.kinds import OnDevice

LAUNCHER = "sft.host.launch.deepspeed_launcher"
POLL_S = 0.1
# Killed ranks hold GPU memory and MASTER_PORT until the kernel has freed all that they had, which takes seconds with
# much pinned memory. Less than LAST_ATTEMPT_S in sft/run/directory.py: `make resume` waits that long for the lock.
ENDING_S = 20.0


class Processes:
    """The processes that a node has started. Each of them has SFT_NODE_PID in its environment."""

    def __init__(self, run: Run, device: OnDevice, ranks: range, output: Log, note: Callable[[str], None]) -> None:
        """`ranks`: the node's. `note` is given every line that they print."""
        self.run, self.ranks, self.log, self.note = run, ranks, output, note
        self.device = device
        self.sessions: set[int] = set()  # one for each program that was started
        self.pumps: list[threading.Thread] = []  # they copy the processes' output to the log

    def cards(self) -> list[Gpu]:
        """Return the GPUs of the node's ranks: the first of those that this program may use."""
        return gpus.visible()[: len(self.ranks)] if self.device == "cuda" else []

    def start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a program in a session of its own, its output going to the log."""
        with signals.blocked():
            process = subprocess.Popen(
                [sys.executable, "-u", "-m", module, *arguments],
                env=self.environment(module),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        self.sessions.add(process.pid)
        pump = threading.Thread(target=log.copy, args=(process.stdout, self.log, self.note), daemon=True)
        pump.start()
        self.pumps.append(pump)
        return process

    def environment(self, module: str) -> dict[str, str]:
        """Return the environment of a program of this node. Variables that the user has set are kept."""
        ours = {
            "SFT_NODE_PID": str(os.getpid()),  # tells this node's processes, and ends them without it
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            # A character that a locale cannot print must not end a rank, and a row is the same text in every locale.
            "PYTHONUTF8": "1",
            "PYTHONIOENCODING": "utf-8:backslashreplace",
            "SFT_LOGS": str(self.run.logs),
            RUN: str(self.run.path),
        }
        default = {
            "OMP_NUM_THREADS": str(max(1, resources.cores() // len(self.ranks))),
            "TQDM_DISABLE": "1",  # no progress bars: this goes to a log
            "PYTHONWARNINGS": "ignore::FutureWarning:torch.distributed.c10d_logger",  # DeepSpeed's calls, one a rank
        }
        if module == LAUNCHER:
            ours["HF_HUB_OFFLINE"] = "1"  # everything is here by now
        default |= interface.variables(master_address())
        if "error" in os.environ.get("PYTHONWARNINGS", ""):  # the libraries' warnings would end a run
            ours["PYTHONWARNINGS"] = default["PYTHONWARNINGS"]
        if self.device == "cpu":
            ours["DS_ACCELERATOR"] = "cpu"
        else:
            ours["DS_ACCELERATOR"] = "cuda"  # DeepSpeed would believe what somebody has set for another program
            default["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
            # NCCL's own monitor ends ranks whose collectives take minutes; here the heartbeat decides.
            default["TORCH_NCCL_ENABLE_MONITORING"] = "0"
            cards = self.cards()
            default |= gpus.nccl_variables(cards)
            if cards:  # DeepSpeed's launcher puts 0 to N - 1 into CUDA_VISIBLE_DEVICES: sft/trainer/process.py
                told = gpus.environment(cards)
                ours |= told | {"SFT_CUDA_DEVICES": told["CUDA_VISIBLE_DEVICES"]}
        return default | dict(os.environ) | ours

    def drain(self, timeout_s: float = 5) -> None:
        """Wait until the output of processes that have ended is in the log."""
        for pump in self.pumps:
            pump.join(timeout=timeout_s)

    def write_stacks(self) -> None:
        """Have every living rank write the stacks of its threads (sft/trainer/process.py)."""
        for process in self.living():
            with contextlib.suppress(psutil.Error, OSError):
                if any(word.startswith("--local_rank=") for word in process.cmdline()):
                    with self.stacks_file(int(process.environ()["RANK"])).open("a") as file:
                        file.write(time.strftime("%Y-%m-%d %H:%M:%S\n"))
                    process.send_signal(signal.SIGUSR1)

    def end(self) -> None:
        """End every process that is left, wait until all are gone, and remove empty files of stacks."""
        killed = list(self.living())
        for process in killed:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.wait_for_end(killed)
        for path in map(self.stacks_file, self.ranks):
            with contextlib.suppress(OSError):
                if path.stat().st_size == 0:
                    path.unlink()

    def living(self) -> Iterator[psutil.Process]:
        """Yield the living processes that this node has started, even if their parents have ended."""
        mine = str(os.getpid())
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get("SFT_NODE_PID") == mine:
                    yield process
            except psutil.Error:
                continue  # gone by now, or another user's

    def wait_for_end(self, killed: list[psutil.Process]) -> None:
        """Wait at most ENDING_S until these processes, and those that were ended before, hold nothing any more."""
        deadline = time.monotonic() + ENDING_S
        while left := [process for process in {*killed, *self.ending()} if not has_ended(process)]:
            if time.monotonic() > deadline:
                pids = ", ".join(str(process.pid) for process in left)
                self.log.write(f"killed {ENDING_S:.0f} s ago and still not gone: {pids}; they may hold GPU memory")
                return
            time.sleep(POLL_S)

    def ending(self) -> Iterator[psutil.Process]:
        """Yield the processes in the programs' sessions that have given up their memory.

        Their environment is gone with it, by which `living` would know them, but not yet their files and devices.
        """
        for pid in psutil.pids():
            with contextlib.suppress(psutil.Error, OSError):
                if os.getsid(pid) in self.sessions and psutil.Process(pid).memory_info().vms == 0:
                    yield psutil.Process(pid)

    def stacks_file(self, rank: int) -> Path:
        """`logs/stacks-rank-N.txt`: where a rank writes its stacks."""
        return self.run.logs / f"stacks-rank-{rank}.txt"


def has_ended(process: psutil.Process) -> bool:
    """Whether a process holds nothing any more: it is gone, or a zombie, the threads of which have ended too."""
    try:
        if not process.is_running():
            return True
        return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
    except psutil.Error:
        return True


def kill(process: subprocess.Popen[str]) -> None:
    """End a program and everything in its session at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
