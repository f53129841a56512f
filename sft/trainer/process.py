"""What every process of a run does first, before slow imports: signals, watching its parents, choosing its GPU.

Standard library only.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import IO

from sft.redaction import guard_tracebacks

stop_requested = threading.Event()


class Stopped(Exception):
    """The run was asked to stop; all ranks raise it together."""


def begin() -> None:
    """Prepare this process: signals only set `stop_requested`, and without its parents the process ends.

    A stop of systemd or `scancel` signals every process of a run, at whatever moment: all ranks leave together at the
    next step boundary. What started this process has held signals back from it until now.
    """
    guard_tracebacks()
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGHUP, on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal reaches the task, which asks for a stop
    faulthandler.register(signal.SIGUSR1, file=stacks_file())
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    node = int(os.environ.get("SFT_NODE_PID", "0"))
    threading.Thread(target=end_without, args=(os.getppid(), node), daemon=True).start()
    if cards := os.environ.get("SFT_CUDA_DEVICES"):
        # The launcher numbers the cards of every node from 0; these are the ones that the node program was given.
        os.environ["CUDA_VISIBLE_DEVICES"] = cards


def on_signal(_signal: int, _frame: FrameType | None) -> None:
    """Note that the run was asked to stop."""
    stop_requested.set()


def stacks_file() -> IO[str]:
    """Return where this process writes its threads' stacks: a rank into a file of its own, beside the node's log."""
    rank, folder = os.environ.get("RANK"), os.environ.get("SFT_LOGS")
    if rank is None or folder is None:
        return sys.stderr
    try:
        return open(os.path.join(folder, f"stacks-rank-{rank}.txt"), "a")  # the node removes it if it stays empty
    except OSError:
        return sys.stderr


def end_without(parent: int, node: int) -> None:
    """End this process when the launcher (`parent`) or the node program is gone: nobody could end it any more."""
    while True:
        time.sleep(1)
        if os.getppid() != parent or (node and not is_alive(node)):
            with contextlib.suppress(Exception):  # what reads this output may be gone with the launcher
                print("the launcher is gone: ending", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Tell whether a process is there, and more than an entry that its parent has not yet collected."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[:1] not in (["Z"], [])
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:  # no file can be opened now: that says nothing about the other process
        return True
