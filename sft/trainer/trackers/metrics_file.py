"""`metrics.jsonl`: the tracker that every run has. The monitor, the report and other trackers read it."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from pathlib import Path

from sft.run import files, metrics
from sft.run.directory import Run
from sft.run.metrics import Line

EVALUATED = ("val/", "eval/")  # how the names of an evaluation's metrics begin


class MetricsFile:
    """Appends lines to `metrics.jsonl`, after those of earlier attempts.

    Those may be a million lines, which would take a gigabyte in memory: they are read one by one.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.steps = array("q")  # of each line of earlier attempts
        self.evaluations: list[Line] = []  # lines of earlier attempts with an evaluation's numbers
        self.validated: set[int] = set()  # steps after which the loss on held-out rows was logged
        self.newest = 0
        number, bad = 0, []
        for number, line in enumerate(run.metrics_lines(), 1):
            if line is None:
                bad.append(number)
                continue
            self.steps.append(line.step)
            if any(name.startswith(EVALUATED) for name in line.values):
                self.evaluations.append(line)
            self.note(line)
        # Without lines that cannot be read, and without one that a killed attempt has left incomplete.
        self.open_with(run.read_metrics() if bad or not ends_whole(run.metrics) else None)
        if bad:
            said = metrics.left_out(run.metrics, bad, number)
            print(said, flush=True)
            run.warn(said)

    def open_with(self, lines: Iterable[Line] | None) -> None:
        """Open the file for more lines; replace it before by these lines if they are given."""
        if lines is not None:
            files.write_lines(self.run.metrics, (line.as_text() for line in lines))
        self.file = self.run.metrics.open("a", buffering=1)

    def note(self, line: Line) -> None:
        """Note what is asked about the lines later."""
        self.newest = max(self.newest, line.step)
        if "val/loss" in line.values:
            self.validated.add(line.step)

    def logged(self, step: int) -> int:
        """Return how many lines earlier attempts have logged up to a step."""
        return sum(1 for one in self.steps if one <= step)

    def resume(self, first_step: int) -> None:
        """Drop the lines after `first_step`, of an attempt whose steps are lost."""
        if self.newest > first_step:
            self.file.close()
            self.open_with(line for line in self.run.read_metrics() if line.step <= first_step)

    def log(self, line: Line) -> None:
        """Append a line. The file is line buffered: a reader sees it at once."""
        self.note(line)
        self.file.write(line.as_text())

    def close(self) -> None:
        """Flush to disk, so that a finished run has the lines of all its steps even after a power cut."""
        os.fsync(self.file.fileno())
        self.file.close()


def ends_whole(path: Path) -> bool:
    """Whether a file ends with a whole line, is empty, or is not there."""
    if not path.is_file() or not path.stat().st_size:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
