"""Standard output for tasks: text that cannot be displayed never ends a run."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, TextIO, cast

from rich.console import Console


class Screen:
    """A stream that takes everything. What its encoding has no character for is a question mark.

    Once its reader is gone (`make train | head -1`, a closed terminal) all that follows is dropped. The run goes on.
    """

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`."""
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        encoding = self.stream.encoding or "utf-8"
        try:
            self.stream.write(text.encode(encoding, "replace").decode(encoding))
        except (OSError, ValueError):
            self.lose()
        return len(text)

    def flush(self) -> None:
        """Write what is kept back."""
        try:
            self.stream.flush()
        except (OSError, ValueError):
            self.lose()

    def lose(self) -> None:
        """Send what follows nowhere, what Python still writes at its own end included."""
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        """Be the stream for everything else: its encoding, whether it is a terminal."""
        return getattr(self.stream, name)


def terminal() -> Console:
    """Return the console that tasks print on: text as it is, broken at spaces in a terminal and nowhere in a file."""
    console = Console(file=cast(TextIO, Screen(sys.stdout)), highlight=False, markup=False)
    console.soft_wrap = not console.is_terminal
    return console


def duration(seconds: float) -> str:
    """Return a duration as m:ss or h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
