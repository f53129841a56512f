"""`metrics.jsonl`: the tracker that every run has. The monitor, the report and other trackers read it."""

from __future__ import annotations

import os
from collections.abc import Iterable

from sft.run import files
from sft.run.directory import Run
from sft.run.metrics import Line


class MetricsFile:
    """Appends lines to `metrics.jsonl`, after those of earlier attempts."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.earlier: list[Line] = list(run.read_metrics())
        self.open_with(self.earlier)  # without a line that a killed attempt has left incomplete

    def open_with(self, lines: Iterable[Line]) -> None:
        """Replace the file by these lines, and open it for more."""
        files.write_whole(self.run.metrics, "".join(line.as_text() for line in lines))
        self.file = self.run.metrics.open("a", buffering=1)

    def resume(self, first_step: int) -> list[Line]:
        """Drop the lines after `first_step`, of an attempt whose steps are lost. Return the lines that stay."""
        lines: list[Line] = list(self.run.read_metrics())
        kept = [line for line in lines if line.step <= first_step]
        if len(kept) < len(lines):
            self.file.close()
            self.open_with(kept)
        return kept

    def log(self, line: Line) -> None:
        """Append a line. The file is line buffered: a reader sees it at once."""
        self.file.write(line.as_text())

    def close(self) -> None:
        """Flush to disk, so that a finished run has the lines of all its steps even after a power cut."""
        os.fsync(self.file.fileno())
        self.file.close()
