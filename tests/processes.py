"""Wait for the end of processes that are not this one's children: nobody here is told of it."""

import time
from collections.abc import Iterable

import psutil

TIMEOUT_S = 30


def has_ended(process: psutil.Process) -> bool:
    """Tell whether a process has ended, also if its parent has not looked at its exit code yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for_end(processes: Iterable[psutil.Process]) -> None:
    """Wait until all have ended; fail where one stays."""
    deadline = time.monotonic() + TIMEOUT_S
    while left := [process for process in processes if not has_ended(process)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
