"""The log file of a node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TextIO

from sft.redaction import redact


class Log:
    """A node's log: every line goes to `logs/node-R.log` and to standard output, without secrets."""

    def __init__(self, path: Path) -> None:
        """Append to the log in `path`."""
        self.file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        self.lost = 0  # lines that a stream did not take

    def write(self, line: str) -> None:
        """Write one line. What a stream does not take costs the line, never the run: ranks block on a full pipe."""
        line = redact(line).rstrip("\n") + "\n"
        for stream in (self.file, sys.stdout):
            try:
                stream.write(encodable(line, stream))
                stream.flush()
            except (OSError, ValueError):  # a full disk; a reader that is gone; a closed stream
                self.lost += 1


def encodable(line: str, stream: TextIO) -> str:
    """Return a line as a stream's encoding can hold it: a locale's may be ASCII."""
    encoding = stream.encoding or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)
