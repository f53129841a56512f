"""Run pip, and show what it does."""

from __future__ import annotations

import collections
import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from sft import ROOT
from sft.host.install.shown import Shown

CONSTRAINTS = ("-c", "constraints.txt")  # the one version of every package but torch
TICK_S = 0.5
END_S = 10.0
# Some machines and users have pip install elsewhere, or not all of it. PIP_USER=0 also wins over pip's own files.
ELSEWHERE = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_DRY_RUN", "PIP_NO_DEPS", "PIP_REQUIRE_HASHES")
INTO_VENV = {"PIP_USER": "0"}
LAST_LINES = 20  # of pip's output, shown if it fails


def pip_install(python: Path, *words: str, errors: bool = True) -> bool:
    """Install packages with pip, and show what it does; tell whether it succeeded. `errors`: show why it did not."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off", *words]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in ELSEWHERE} | INTO_VENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a signal to this program's group would end pip before this program knows
    )
    shown = Shown(sys.stdout)
    last: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
    try:
        for line in each_line(process, shown):
            shown.note(line)
            last.append(line)
        succeeded = process.wait() == 0
    except BaseException:
        shown.end(succeeded=False)
        end(process)
        raise
    shown.end(succeeded)
    if errors and not succeeded:
        sys.stderr.write("".join(last))
    return succeeded


def each_line(process: subprocess.Popen[str], shown: Shown) -> Iterator[str]:
    """Yield the lines that pip prints. Between them the time that passes is shown."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=TICK_S)
        except queue.Empty:
            shown.tick()
            continue
        if line is None:
            return
        yield line


def end(process: subprocess.Popen[str]) -> None:
    """End pip and its compilers: as Ctrl-C does, so that pip removes its temporary folders, or else by force."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
