"""Read `metrics.jsonl` for the monitor as it grows: the newest values, and the curve of the loss in little memory."""

from __future__ import annotations

import itertools
import os
from collections import deque
from dataclasses import dataclass, field
from typing import BinaryIO

from sft.run.directory import Run
from sft.run.metrics import Line

LOSS = "train/loss"
CURVE_POINTS = 60
NEWEST = 50  # lines that are searched for the newest value of each metric
POINTS = 1024  # of a curve in memory, at most; half as many at least once it is that long
READ_BYTES = 2**20  # at a time
# A larger file is not read whole at first: that would take 10 s for a million steps. Of each of PLACES equal parts the
# first lines stand for the others. What is written later is read whole.
WHOLE_BYTES, PLACES, PLACE_BYTES = 16 * 2**20, 256, 2**14


@dataclass(frozen=True)
class Metrics:
    """What the monitor shows of the metrics."""

    newest: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)  # of the whole run, as a curve


class Curve:
    """Means of neighbouring values, each of equally many; of twice as many whenever there are too many means."""

    def __init__(self, each: int = 1) -> None:
        self.each = each
        self.means: list[float] = []
        self.sum, self.count = 0.0, 0  # of the values since the last mean

    def add(self, value: float) -> None:
        """Add a value."""
        self.sum, self.count = self.sum + value, self.count + 1
        if self.count < self.each:
            return
        self.means.append(self.sum / self.count)
        self.sum, self.count = 0.0, 0
        if len(self.means) == POINTS:
            self.means = [(a + b) / 2 for a, b in zip(self.means[::2], self.means[1::2], strict=True)]
            self.each *= 2

    def values(self) -> list[float]:
        """Return the means; the last one may be of fewer values."""
        return [*self.means, self.sum / self.count] if self.count else list(self.means)


class MetricsReader:
    """Reads `metrics.jsonl` as it grows, each line once."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.inode = 0
        self.begin()

    def begin(self) -> None:
        """Forget what was read."""
        self.offset = self.bad = 0
        self.curve = Curve()
        self.last: deque[Line] = deque(maxlen=NEWEST)

    def read(self) -> Metrics:
        """Return what all complete lines so far say. Lines that cannot be read are left out and counted."""
        try:
            with self.run.metrics.open("rb") as file:
                about = os.fstat(file.fileno())
                if about.st_ino != self.inode:  # a resumed run rewrites the file
                    self.begin()
                    self.inode = about.st_ino
                    if about.st_size > WHOLE_BYTES:
                        self.sample(file, about.st_size)
                file.seek(self.offset)
                while part := file.read(READ_BYTES).rpartition(b"\n")[0]:
                    self.offset += len(part) + 1
                    self.take(part)
                    file.seek(self.offset)
        except FileNotFoundError:
            self.begin()
        newest: dict[str, float] = {}
        for line in self.last:
            newest |= line.numbers()
        return Metrics(newest, curve(self.curve.values()))

    def take(self, text: bytes) -> None:
        """Take complete lines."""
        for line in map(Line.parse, text.split(b"\n")):
            if line is None:
                self.bad += 1
                continue
            self.last.append(line)
            if LOSS in line.values:
                self.curve.add(line.values[LOSS])

    def sample(self, file: BinaryIO, size: int) -> None:
        """Read the first lines of each part of a large file, and continue at its last part."""
        place = size // PLACES
        means, lengths = [], []
        for number in range(PLACES - 1):
            file.seek(number * place)
            whole = file.read(PLACE_BYTES).split(b"\n")[1:-1]
            lines = [line for line in map(Line.parse, whole) if line is not None]
            losses = [line.values[LOSS] for line in lines if LOSS in line.values]
            if losses:
                means.append(sum(losses) / len(losses))
                lengths.append(sum(map(len, whole)) / len(losses))
        file.seek((PLACES - 1) * place)
        file.readline()
        self.offset = file.tell()
        if means:
            self.curve = Curve(each=max(1, round(place * len(lengths) / sum(lengths))))
            self.curve.means = means

    def problems(self) -> list[str]:
        """Return a line for everything in the run directory that cannot be read."""
        lines = [f"{self.run.metrics}: lines that cannot be read and are left out: {self.bad}"] if self.bad else []
        return [*self.run.unreadable_files(), *lines]


def curve(values: list[float], width: int = CURVE_POINTS) -> list[float]:
    """Return at most `width` values, each the mean of neighbouring ones."""
    number = min(width, len(values))
    edges = [round(i * len(values) / number) for i in range(number + 1)] if number else []
    return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
