"""What a real pseudo-terminal shows at the end of a program; of the control codes it knows the few that we use."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

CODES = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|\x1b\].*?(?:\x07|\x1b\\)|(.)", re.DOTALL)


def run_in_terminal(width: int, *words: str, **environment: str) -> list[str]:
    """Run Python with these words in a terminal of `width` columns; return the lines that it shows at the end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    program = subprocess.Popen(
        [sys.executable, *words],
        env=kept | {"TERM": "xterm-256color"} | environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        close_fds=True,
    )
    os.close(theirs)
    written = b""
    try:
        while block := os.read(ours, 65536):
            written += block
    except OSError:  # the program has ended
        pass
    os.close(ours)
    program.wait()
    return lines_shown(written.decode(), width)


def lines_shown(text: str, width: int) -> list[str]:
    """Return the lines that a terminal of `width` columns holds after this text; scrolled ones too."""
    lines: list[list[str]] = [[]]
    row = column = 0
    for code in CODES.finditer(text):
        number, command, character = code.groups()
        if command == "A":
            row = max(0, row - int(number or 1))
        elif command == "K":
            lines[row] = [] if number == "2" else lines[row][:column]
        elif character == "\r":
            column = 0
        elif character == "\n":
            row += 1
        elif character:
            row, column = (row + 1, 0) if column == width else (row, column)
            lines += [[] for _ in range(row + 1 - len(lines))]
            lines[row] += " " * (column - len(lines[row]))
            lines[row][column : column + 1] = character
            column += 1
        lines += [[] for _ in range(row + 1 - len(lines))]
    return ["".join(line).rstrip() for line in lines]
