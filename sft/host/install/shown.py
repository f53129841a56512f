"""What is shown of pip's work: one line that changes in a terminal, a line for what takes long elsewhere."""

from __future__ import annotations

import re
import shutil
import time
from typing import TextIO

LARGE_MB = 20.0  # a download of which a log has a line
MEGABYTES = {"kB": 0.001, "MB": 1.0, "GB": 1000.0}
# As in `  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (123.4 MB)`, but not its .metadata file.
FETCHED = re.compile(
    r"\s*(?P<how>Downloading|Using cached) (?:\S*/)?(?P<name>[^/\s-]+-[^/\s-]+)\S*"
    r"(?<!\.metadata) \((?P<size>[\d.]+) (?P<unit>\w+)\)"
)


class Shown:
    """What is shown of pip's work: one line that changes in a terminal, a line for what takes long elsewhere."""

    def __init__(self, out: TextIO) -> None:
        """Show it on `out`."""
        self.out, self.is_terminal = out, out.isatty()
        self.started = time.monotonic()
        self.doing = "looking up versions"
        self.packages, self.megabytes = 0, 0.0

    def note(self, line: str) -> None:
        """Take in one line of pip's output."""
        takes_long = True
        if match := FETCHED.match(line):
            megabytes = float(match["size"]) * MEGABYTES.get(match["unit"], 0)
            self.megabytes += megabytes
            self.doing = f"{match['how'].lower()} {match['name']} ({match['size']} {match['unit']})"
            takes_long = megabytes >= LARGE_MB
        elif match := re.match(r"\s*Building (wheel|editable) for (\S+) .*: started", line):
            self.doing = f"building {match[2]}"
        elif match := re.match(r"Installing collected packages: (.*)", line):
            self.packages = len(match[1].split(", "))
            self.doing = f"installing {counted(self.packages, 'package')}"
        else:
            return
        if takes_long and not self.is_terminal:
            print(f"    {self.doing}", file=self.out, flush=True)
        self.tick()

    def tick(self) -> None:
        """Show the time that has passed, in a terminal."""
        if self.is_terminal:
            line = f"    {clock(time.monotonic() - self.started)}  {self.doing}"
            self.out.write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")
            self.out.flush()

    def end(self, succeeded: bool) -> None:
        """Leave a line with what was done."""
        if self.is_terminal:
            self.out.write("\r\x1b[K")
        if succeeded:
            size = f", {self.megabytes:,.0f} MB" if self.megabytes >= 1 else ""
            done = f"{counted(self.packages, 'package')}{size}" if self.packages else "nothing new"
            print(f"    {done}, in {clock(time.monotonic() - self.started)}", file=self.out, flush=True)


def counted(number: int, what: str) -> str:
    """Return a number with its noun."""
    return f"{number} {what}{'s' * (number != 1)}"


def clock(seconds: float) -> str:
    """Return a duration as m:ss."""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02}"
