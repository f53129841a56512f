"""Which runs are at work now: the packages in `.venv` must not change under them."""

import fcntl
import os
import struct
from typing import List

from sft.host.bootstrap import checkout, sound

# What sft/run/directory.py locks: by the task that sees a run to its end, and by the program of its first node.
LOCKS = (".claim", ".lock", os.path.join("evaluation", ".lock"))
GETLK = 36  # Linux's F_OFD_GETLK, which Python names from 3.9 on
FORM = "hhqqi4x"  # struct flock, as in sft/run/files.py


def in_use() -> str:
    """Return the beginning of a line that says what `.venv` is in use by; "" if nothing uses it."""
    working = runs()
    return ".venv: in use by " + ", ".join(working) if working else ""


def runs() -> "List[str]":
    """Return the runs in RUNS_PATH that a program works on, or has just begun to."""
    folder = os.path.expanduser(checkout.variable("RUNS_PATH") or "runs")
    place = os.path.join(sound.ROOT, folder)
    try:
        names = sorted(os.listdir(place))
    except OSError:
        return []
    paths = [name for name in names if not os.path.islink(os.path.join(place, name))]
    return [os.path.join(folder, name) for name in paths if is_at_work(os.path.join(place, name))]


def is_at_work(path: str) -> bool:
    """Tell whether a program works on the run in this directory."""
    return any(is_locked(os.path.join(path, name)) for name in LOCKS)


def is_locked(path: str) -> bool:
    """Tell whether anybody holds a lock on a file. What is not there, or another user's, is not locked."""
    try:
        with open(path) as file:
            answer = fcntl.fcntl(file, GETLK, struct.pack(FORM, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError:
        return False
    kind = struct.unpack(FORM, answer)[0]
    return bool(kind != fcntl.F_UNLCK)
