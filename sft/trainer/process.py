"""What every process of a run does first, before slow imports: signals, watching its parents, choosing its GPU.

Standard library only.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import signal
import sys
import threading
import time
from types import FrameType
from typing import IO

from sft.redaction import guard_tracebacks

stop_requested = threading.Event()
# One of the architectures in TORCH_CUDA_ARCH_LIST, as DeepSpeed reads them. torch also takes 9.0a and Hopper.
ARCHITECTURE = re.compile(r"\d+\.\d+(\+PTX)?")


class Stopped(Exception):
    """The run was asked to stop. All ranks raise it together."""


def begin() -> None:
    """Set this process up: signals only set `stop_requested`, and it ends if the launcher or the node program dies.

    A stop by systemd or `scancel` signals every process of a run, at any moment: all ranks leave together after the
    step they are in. Until now, the program that started this process has blocked its signals.
    """
    guard_tracebacks()
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGHUP, on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal also reaches the task, which requests a stop
    # At its very end Python takes the handler away again: a rank that is asked for its stacks just then ends as it was
    # about to, not by the signal.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    stacks = stacks_file()
    faulthandler.register(signal.SIGUSR1, file=stacks)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    node = int(os.environ.get("SFT_NODE_PID", "0"))
    threading.Thread(target=watch, args=(os.getppid(), node, stacks), daemon=True).start()
    if cards := os.environ.get("SFT_CUDA_DEVICES"):
        # The launcher numbers the GPUs of every node from 0. These are the GPUs that the node program was given.
        os.environ["CUDA_VISIBLE_DEVICES"] = cards
    forget_architectures()


def forget_architectures() -> None:
    """Unset TORCH_CUDA_ARCH_LIST if DeepSpeed cannot read it: then it compiles its programs for the GPUs that are here.

    Images of containers set it for the programs that were compiled into them.
    """
    name = "TORCH_CUDA_ARCH_LIST"
    if not all(map(ARCHITECTURE.fullmatch, os.environ.get(name, "").replace(";", " ").split())):
        del os.environ[name]


def on_signal(_signal: int, _frame: FrameType | None) -> None:
    """Note that the run was asked to stop: everything else happens between steps."""
    stop_requested.set()


def stacks_file() -> IO[str]:
    """Return the file for the stacks of this process's threads: each rank has its own, beside the node's log."""
    rank, folder = os.environ.get("RANK"), os.environ.get("SFT_LOGS")
    if rank is None or folder is None:
        return sys.stderr
    try:
        return open(os.path.join(folder, f"stacks-rank-{rank}.txt"), "a")  # the node program removes an empty one
    except OSError:
        return sys.stderr


def watch(parent: int, node: int, stacks: IO[str]) -> None:
    """Every second: keep the signal for stacks, and end this process once its launcher or the node program is gone.

    Nobody else would end it. LLVM, with which Triton compiles kernels, takes the signal for itself at the first of
    them, and with it SIGTERM and SIGHUP, which it passes on.
    """
    while True:
        time.sleep(1)
        faulthandler.unregister(signal.SIGUSR1)  # as long as it is registered, registering does nothing
        faulthandler.register(signal.SIGUSR1, file=stacks)
        if os.getppid() != parent or (node and not is_alive(node)):
            with contextlib.suppress(Exception):  # the reader of this output may be gone, too
                print("the launcher is gone: ending", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Tell whether a process is running: it exists and is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[:1] not in (["Z"], [])
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:  # for example too many open files: this says nothing about the other process
        return True
