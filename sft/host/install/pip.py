"""Run pip, and show what it does."""

from __future__ import annotations

import collections
import queue
import subprocess
import sys
import threading
from pathlib import Path

from sft import ROOT
from sft.host.install.shown import Shown

CONSTRAINTS = ("-c", "constraints.txt")  # the one version of every package but torch
TICK_S = 0.5
LAST_LINES = 20  # of pip's output, shown if it fails


def pip_install(python: Path, *words: str, errors: bool = True) -> bool:
    """Install packages with pip, and show what it does; tell whether it succeeded. `errors`: show why it did not."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off", *words]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    shown = Shown(sys.stdout)
    last: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
    while True:
        try:
            line = lines.get(timeout=TICK_S)
        except queue.Empty:
            shown.tick()
            continue
        if line is None:
            break
        shown.note(line)
        last.append(line)
    succeeded = process.wait() == 0
    shown.end(succeeded)
    if errors and not succeeded:
        sys.stderr.write("".join(last))
    return succeeded
