"""The splits of a data set that are for training and for evaluation, whole or sliced: TRAIN_SPLIT and EVAL_SPLIT."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sft.errors import SettingsError, wrong
from sft.rows.files import read_file
from sft.rows.row import ReadRow
from sft.rows.split_names import split_for
from sft.settings import rules, slices
from sft.settings.fields import Settings
from sft.settings.slices import Slice


@dataclass(frozen=True)
class DataFile:
    """A file of a data set, or one of the splits in a JSON file."""

    path: Path
    name: str  # within the data set, as in "train/part-0.jsonl"
    part: str | None = None

    def fetch(self) -> None:
        """Make sure that the file is here, which a local one is."""

    def read(self) -> Iterator[ReadRow]:
        """Yield its rows, with errors in place of those that cannot be read."""
        return read_file(self.path, self.part)


@dataclass(frozen=True)
class Selection:
    """Rows of a split, which one or several files hold."""

    slice: Slice
    files: list[DataFile]

    def read(self) -> Iterator[ReadRow]:
        """Yield its rows, with errors in place of those that cannot be read. A slice ends the reading early."""
        every = (row for file in self.files for row in file.read())
        if self.slice.is_whole:
            return every
        rows = self.slice.of(self.rows_of_split if self.slice.needs_count else sys.maxsize)
        return itertools.islice(every, rows.start, max(rows.start, rows.stop))

    @cached_property
    def rows_of_split(self) -> int:
        """The rows of the whole split, which are read to count them."""
        return sum(1 for file in self.files for _ in file.read())


def selected(files: Mapping[str, list[DataFile]], settings: Settings) -> dict[str, list[Selection]]:
    """Return the rows that are used of the files of each split: by "train" and "validation"; either may be empty.

    Raises SettingsError for splits that are not there.
    """
    train, evaluation = slices.parse(settings.train_split), slices.parse(settings.eval_split)
    for name, asked in (("train_split", train), ("eval_split", evaluation)):
        if missing := [part.split for part in asked if part.split not in files]:
            what = f"{settings.dataset} has no split {missing[0]}, but {', '.join(files)}"
            raise SettingsError([wrong(name.upper(), getattr(settings, name), what, "name one of them")])
    if not train and (split := split_for(["train"], files, settings.dataset)):
        train = [Slice(split)]
    others = [name for name in files if name not in {part.split for part in train}]
    if not settings.eval_split and (split := split_for(["validation", "test"], others, settings.dataset)):
        evaluation = [Slice(split)]
    return {
        "train": [Selection(part, files[part.split]) for part in train],
        "validation": [Selection(part, files[part.split]) for part in evaluation],
    }


def check_apart(found: dict[str, list[Selection]], settings: Settings) -> None:
    """Raise SettingsError if rows are for training and for evaluation. Reads splits to count their rows if it must."""
    for train in found["train"]:
        for evaluation in found["validation"]:
            if train.slice.split == evaluation.slice.split and (
                slices.overlap(train.slice, evaluation.slice)
                or slices.overlap(train.slice, evaluation.slice, train.rows_of_split)
            ):
                raise SettingsError([rules.shared_rows(settings, train.slice, evaluation.slice)])
