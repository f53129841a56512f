"""The log file of a node."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TextIO

from sft.redaction import redact

LINE_CHARACTERS = 2**16  # longer lines of a program are logged in parts


class Log:
    """A node's log: every line goes to `logs/node-R.log` and to standard output, without secrets."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        self.lost = 0  # lines that could not be written to a stream

    def write(self, line: str) -> None:
        """Write one line. If a stream fails, the line is lost, and the run continues."""
        line = redact(line).rstrip("\n") + "\n"
        for stream in (self.file, sys.stdout):
            try:
                stream.write(encodable(line, stream))
                stream.flush()
            except (OSError, ValueError):  # a full disk; a reader that is gone; a closed stream
                self.lost += 1


def encodable(line: str, stream: TextIO) -> str:
    """Return a line with what a stream's encoding lacks replaced: a locale's may be ASCII."""
    encoding = stream.encoding or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)


def copy(stream: IO[str], log: Log, note: Callable[[str], None]) -> None:
    """Copy a program's output to the log, and give `note` every line.

    It reads to the end, even if a line cannot be written: ranks whose output nobody reads block on a full pipe.
    """
    while line := stream.readline(LINE_CHARACTERS):
        try:
            note(line)
            log.write(line)
        except Exception as error:
            log.lost += 1
            with contextlib.suppress(Exception):
                log.write(f"a line of the ranks could not be logged: {type(error).__name__}: {error}")
