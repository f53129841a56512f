"""Standard output for tasks: text that cannot be displayed never ends a run."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
from typing import Any, TextIO, cast

from rich.console import Console

from sft.failures import is_disk_full

LABEL = 10  # columns of the labels on the left


class Screen:
    """A text stream that never fails. A character that its encoding lacks becomes a question mark.

    Once its reader is gone (`make train | head -1`, a closed terminal), everything that follows is dropped, and the run
    continues.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.was_full = False  # whether something was dropped because the disk is full

    def write(self, text: str) -> int:
        encoding = self.stream.encoding or "utf-8"
        try:
            self.stream.write(text.encode(encoding, "replace").decode(encoding))
        except (OSError, ValueError) as error:
            self.lose(error)
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except (OSError, ValueError) as error:
            self.lose(error)

    def lose(self, error: Exception) -> None:
        """Send everything that follows nowhere, including what Python writes when it exits."""
        self.was_full = self.was_full or is_disk_full(error)
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's: its encoding, whether it is a terminal."""
        return getattr(self.stream, name)


def guard_streams() -> None:
    """Make standard output a Screen, and send what goes to a closed stream (`make train >&-`) nowhere.

    Otherwise the number of a closed stream would be that of the next file.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    sys.stdout = cast(TextIO, Screen(sys.stdout))


def is_whole() -> bool:
    """Whether the disk had room for everything that was printed so far."""
    sys.stdout.flush()
    return not getattr(sys.stdout, "was_full", False)


def terminal() -> Console:
    """Return the console that tasks print on. Lines are wrapped at spaces in a terminal, and never in a file."""
    console = Console(file=cast(TextIO, Screen(sys.stdout)), highlight=False, markup=False, emoji=False)
    if console.width < 1:  # COLUMNS=0 says that the width is not known, and would leave nothing to print on
        console.width = 80
    console.soft_wrap = not console.is_terminal
    return console


def labelled(console: Console, label: str, text: str) -> None:
    """Print a line with a label before it. In a terminal, what does not fit goes below the text, not the label."""
    line = f"{label:>{LABEL}}{':' if label else ' '} {text}"
    if console.is_terminal:
        indent = " " * (LABEL + 2)
        wrapped = textwrap.wrap(
            line, console.width, subsequent_indent=indent, break_on_hyphens=False, drop_whitespace=True
        )
        line = "\n".join(wrapped)
    console.print(line, highlight=False, markup=False)


def duration(seconds: float) -> str:
    """Return a duration as m:ss or h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
