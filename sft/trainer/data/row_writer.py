"""Prepared rows written to disk one by one, and counted: rows.py describes the files."""

from __future__ import annotations

import json
import shutil
from array import array
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sft.rows.row_kind import RowKind
from sft.run.records import Split
from sft.trainer.data.rows import Counts, Dropped, Texts, TokenisedRow

COPY_BYTES = 2**20  # copied at a time
MOST_LOST = 20  # characters that are named
MOST = 0.99  # of the rows: the MAX_LENGTH that would hold so many is told


def write(folder: Path, rows: Iterable[TokenisedRow | Dropped], kind: RowKind = "conversations") -> Split:
    """Write a split row by row, so that memory does not grow with its size. Return its counts."""
    folder.mkdir(parents=True)
    offsets = [0]
    targets: list[int] = []
    starts: list[int] = []
    numbers: list[int] = []
    tally = Tally(kind)
    with (
        (folder / "tokens.raw").open("wb") as tokens,
        (folder / "is_target.raw").open("wb") as marks,
        (folder / "texts.jsonl").open("w", encoding="utf-8") as texts,
    ):
        for row in rows:
            if isinstance(row, Dropped):
                tally.drop(row)
                continue
            tokens.write(array("i", row.ids).tobytes())
            marks.write(bytes(row.is_target))
            texts.write(
                json.dumps(Texts(row.prompt, row.reference, row.prompt_ids)._asdict(), ensure_ascii=False) + "\n"
            )
            starts.append(row.answer_start)
            numbers.append(tally.read)
            offsets.append(offsets[-1] + len(row.ids))
            targets.append(row.is_target.count(True) - row.is_target[0])  # nothing predicts a row's first token
            if row.counts:
                tally.add(row.counts)
    lists = {"offsets": offsets, "targets": targets, "answer_starts": starts, "row_numbers": numbers}
    for name, values in lists.items():
        np.save(folder / f"{name}.npy", np.asarray(values, dtype=np.int64))
    for name, dtype in (("tokens", np.int32), ("is_target", np.bool_)):
        add_header(folder / f"{name}.raw", folder / f"{name}.npy", dtype, offsets[-1])
    lengths = np.diff(np.asarray(offsets, dtype=np.int64))
    return tally.split(len(lengths), offsets[-1], sum(targets), int(lengths.max(initial=0)))


class Tally:
    """What is counted of the rows of a split."""

    def __init__(self, kind: RowKind) -> None:
        self.kind = kind
        self.read = 0
        self.dropped, self.used, self.unused = Counter[str](), Counter[tuple[str, ...]](), Counter[str]()
        self.lost = Counter[str]()
        self.counts = Counter[str]()  # by the names of the fields of Split
        self.too_long: list[int] = []  # lengths of the rows that MAX_LENGTH does not hold

    def drop(self, row: Dropped) -> None:
        """Count a row that is not trained."""
        self.read += 1
        self.dropped[row.reason] += 1
        if row.length:
            self.too_long.append(row.length)

    def add(self, row: Counts) -> None:
        """Count a row that is trained."""
        self.read += 1
        self.used[row.used] += 1
        self.unused.update(row.unused)
        if row.is_cut:
            self.too_long.append(row.length)
        self.counts["answers"] += row.answers
        self.counts["target_answers"] += row.target_answers
        self.counts["cut_rows"] += row.is_cut
        self.counts["dropped_sequences"] += row.dropped
        self.counts["messages_left_out"] += row.left_out
        self.counts["rows_with_marks"] += row.has_marks
        self.counts["rows_with_template"] += row.has_template
        self.counts["rows_with_lost"] += bool(row.lost)
        self.lost.update(row.lost)

    def split(self, sequences: int, tokens: int, target_tokens: int, longest: int) -> Split:
        """Return all counts."""
        return Split(
            kind=self.kind,
            rows=sequences,
            tokens=tokens,
            target_tokens=target_tokens,
            longest=longest,
            cut_rows=self.counts["cut_rows"],
            conversations=self.read - self.dropped.total(),
            answers=self.counts["answers"],
            target_answers=self.counts["target_answers"],
            dropped_sequences=self.counts["dropped_sequences"],
            dropped=dict(self.dropped),
            messages_left_out=self.counts["messages_left_out"],
            too_long=len(self.too_long),
            holds_all=max(self.too_long, default=0),
            holds_most=self.holds_most(),
            rows_with_marks=self.counts["rows_with_marks"],
            rows_with_template=self.counts["rows_with_template"],
            rows_with_lost=self.counts["rows_with_lost"],
            lost=dict(self.lost.most_common(MOST_LOST)),
            used_columns={json.dumps(names): number for names, number in self.used.most_common()},
            unused_columns=dict(self.unused),
        )

    def holds_most(self) -> int:
        """Return the MAX_LENGTH that would hold MOST of the rows; 0 if the present one does."""
        may_be_longer = int(self.read * (1 - MOST))
        longest_first = sorted(self.too_long, reverse=True)
        return longest_first[may_be_longer] if may_be_longer < len(longest_first) else 0


def add_header(raw: Path, path: Path, dtype: Any, length: int) -> None:
    """Turn a raw file of numbers into an .npy file, which also has their type and number.

    It is copied piece by piece: memory-mapped files would count as this process's memory, gigabytes for a million rows.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
    with raw.open("rb") as source, path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header | {"shape": (max(1, length),)})
        shutil.copyfileobj(source, file, COPY_BYTES)
        if not length:
            file.write(np.zeros(1, dtype=dtype).tobytes())  # an empty file cannot be memory-mapped
    raw.unlink()
