"""Prepared rows of several data sets as if they were one, each row as often in an epoch as its data set's share says.

The split's folder has a folder of rows for each of them, numbered in their order, and `parts.npy` (int64): for each of
them how many rows of the data set it has, and how often each is trained in an epoch.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sft.trainer.data.rows import Row, Rows

PARTS = "parts.npy"


def join(folder: Path, parts: Sequence[tuple[int, int]]) -> None:
    """Write what makes one split of the folders of rows in `folder`: for each, its rows and its repeats."""
    np.save(folder / PARTS, np.asarray(parts, dtype=np.int64))


def rows_in(folder: Path, repeated: bool = True) -> Rows:
    """Return the rows of a prepared split; without repeats if `repeated` is false."""
    return MixedRows(folder, repeated) if (folder / PARTS).is_file() else Rows(folder)


class MixedRows(Rows):
    """The rows of several data sets, one after the other. The order in which they are trained mixes them."""

    def __init__(self, folder: Path, repeated: bool = True) -> None:
        numbers = np.load(folder / PARTS).tolist()
        self.folder = folder
        self.parts = [Rows(folder / str(number)) for number in range(len(numbers))]
        self.repeats = [repeats if repeated else 1 for _, repeats in numbers]
        self.before = list(accumulate((rows for rows, _ in numbers), initial=0))  # rows before each, and of all
        sizes = (len(part) * times for part, times in zip(self.parts, self.repeats, strict=True))
        *self.starts, _ = accumulate(sizes, initial=0)  # the first sequence of each
        self.lengths = self.joined([part.lengths for part in self.parts])
        self.targets = self.joined([part.targets for part in self.parts])
        self.answer_starts = self.joined([part.answer_starts for part in self.parts])
        # Over all data sets, as `sources.splits` reads them.
        self.row_of = self.joined([part.row_of + start for part, start in zip(self.parts, self.before, strict=False)])

    def joined(self, arrays: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
        """Return an array of each data set as one."""
        return np.concatenate([np.tile(array, times) for array, times in zip(arrays, self.repeats, strict=True)])

    def __getitem__(self, index: int) -> Row:
        number = self.part_of(index)
        part = self.parts[number]
        return part[(index - self.starts[number]) % len(part)]

    def part_of(self, index: int) -> int:
        """Return the number of the data set that a sequence is of."""
        return bisect.bisect_right(self.starts, index) - 1

    def numbers_of_parts(self) -> list[npt.NDArray[np.int64]]:
        """Return the numbers of each data set's sequences among all of them."""
        return [np.arange(start, end) for start, end in pairwise([*self.starts, len(self)])]
