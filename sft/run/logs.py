"""The nodes' logs over the attempts of a run: each appends, behind a line that says which attempt begins."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path

from sft.run.directory import Run

BEGINS = re.compile(r"--- attempt \d+, [-\d]+ [:\d]+ ---")
LONG_LINE = 1000  # bytes


def begin_attempt(run: Run) -> None:
    """Write the line before the first one of the next attempt to every log that there is. A full disk leaves it out."""
    line = f"--- attempt {run.state().attempt}, {time.strftime('%Y-%m-%d %H:%M:%S')} ---\n"
    for path in run.log_files():
        with contextlib.suppress(OSError), path.open("ab+") as file:
            file.seek(max(0, file.seek(0, 2) - 1))
            file.write(b"" if file.read() in (b"", b"\n") else b"\n")  # its node was killed in the middle of a line
            file.write(line.encode())


def last_lines(path: Path, most: int) -> list[str]:
    """Return the last lines of a log that the newest attempt has written, `most` at most."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - most * LONG_LINE))
        lines = file.read().decode(errors="replace").splitlines()[-most:]
    begins = [number for number, line in enumerate(lines) if BEGINS.fullmatch(line)]
    return lines[begins[-1] + 1 :] if begins else lines
