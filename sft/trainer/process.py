"""What every process of a run does first, before imports that take seconds: signals, a watch on its parents, its cards.

Standard library only.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
import time
from types import FrameType

from sft.redaction import guard_tracebacks

stop_requested = threading.Event()


class Stopped(Exception):
    """The run was asked to stop; all ranks raise it together."""


def begin() -> None:
    """Prepare this process: SIGTERM only sets `stop_requested`, and without its parents the process ends.

    DeepSpeed's launcher sends SIGTERM to the ranks one after another and kills each after 30 s, so the handler only
    sets a flag and all ranks leave together at the next step boundary.
    """
    guard_tracebacks()
    signal.signal(signal.SIGTERM, on_sigterm)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal reaches the task, which asks for a stop
    faulthandler.register(signal.SIGUSR1)  # the stacks of a process that hangs
    node = int(os.environ.get("SFT_NODE_PID", "0"))
    threading.Thread(target=end_without, args=(os.getppid(), node), daemon=True).start()
    if cards := os.environ.get("SFT_CUDA_DEVICES"):
        # The launcher numbers the cards of every node from 0; these are the ones that the node program was given.
        os.environ["CUDA_VISIBLE_DEVICES"] = cards


def on_sigterm(_signal: int, _frame: FrameType | None) -> None:
    """Note that the run was asked to stop."""
    stop_requested.set()


def end_without(parent: int, node: int) -> None:
    """End this process when the launcher (`parent`) or the node program is gone: nobody could end it any more."""
    while True:
        time.sleep(1)
        if os.getppid() != parent or (node and not is_alive(node)):
            with contextlib.suppress(OSError):  # what reads this output may be gone with the launcher
                print("the launcher is gone: ending", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Tell whether a process is there, and more than an entry that its parent has not yet collected."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
