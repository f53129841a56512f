"""Prepared rows on disk: tokens and target marks of all rows in flat arrays, memory-mapped, never loaded whole.

A split is a folder of `tokens.npy` (int32), `is_target.npy` (bool), `offsets.npy` (int64, rows + 1), `targets.npy`
(int64, the targets of each row), `answer_starts.npy` (int64, the tokens before the answer that evaluation asks for) and
`texts.jsonl` (prompt and reference of each row, for evaluation).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sft.run.records import Split

COPY_BYTES = 2**20  # copied at a time

Row = tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]  # a row's token ids, and which of them are targets


class Texts(NamedTuple):
    """What evaluation needs of a row beside its tokens."""

    prompt: str
    reference: str
    prompt_ids: list[int] | None = None  # None: the tokens before the answer


class Counts(NamedTuple):
    """What is counted of a row of the data set, however many sequences it has."""

    answers: int
    target_answers: int
    dropped: int  # sequences of which MAX_LENGTH leaves no target
    has_marks: bool  # of the model, in its text
    has_template: bool  # the opening of a whole turn, in its text
    used: tuple[str, ...] = ()  # columns
    unused: tuple[str, ...] = ()  # filled columns


class TokenisedRow(NamedTuple):
    """One sequence: its token ids, which of them are targets, and what evaluation needs."""

    ids: list[int]
    is_target: list[bool]
    prompt: str
    reference: str
    is_cut: bool = False  # at MAX_LENGTH
    target_answers: int = 0  # that begin before the cut
    answer_start: int = -1  # tokens before the answer that evaluation asks for; -1: it asks for none
    prompt_ids: list[int] | None = None  # what generation starts from, if it is not the tokens before the answer
    counts: Counts | None = None  # of the row, at its last sequence


class Rows:
    """The rows of a prepared split, read from disk as they are needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.offsets: npt.NDArray[np.int64] = np.load(folder / "offsets.npy")
        self.tokens: npt.NDArray[np.int32] = np.load(folder / "tokens.npy", mmap_mode="r")
        self.is_target: npt.NDArray[np.bool_] = np.load(folder / "is_target.npy", mmap_mode="r")
        self.lengths: npt.NDArray[np.int64] = np.diff(self.offsets)
        self.targets: npt.NDArray[np.int64] = np.load(folder / "targets.npy")
        self.answer_starts: npt.NDArray[np.int64] = np.load(folder / "answer_starts.npy")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Row:
        part = slice(self.offsets[index], self.offsets[index + 1])
        return self.tokens[part], self.is_target[part]

    def take(self, chosen: npt.NDArray[np.int64]) -> list[Row]:
        return [self[int(index)] for index in chosen]

    def target_tokens(self, chosen: npt.NDArray[np.int64]) -> int:
        """Return the number of target tokens in the chosen rows."""
        return int(self.targets[chosen].sum())

    @property
    def row_of(self) -> npt.NDArray[np.int64]:
        """The number of the data set's row that each sequence is of: evaluation asks for the last sequence of a row."""
        ends = self.answer_starts >= 0
        numbers: npt.NDArray[np.int64] = np.cumsum(ends) - ends
        return numbers

    def asked(self) -> npt.NDArray[np.int64]:
        """Return the numbers of the rows that have an answer for evaluation to ask for."""
        return np.flatnonzero(self.answer_starts >= 0)

    def prompt_ids(self, index: int) -> list[int]:
        """Return the tokens before the answer that evaluation asks for."""
        ids, _ = self[index]
        return ids[: self.answer_starts[index]].tolist()

    def texts(self) -> Iterator[Texts]:
        """Yield every row's texts."""
        with (self.folder / "texts.jsonl").open(encoding="utf-8") as file:
            for line in file:
                yield Texts(**json.loads(line))


def write(folder: Path, rows: Iterable[TokenisedRow]) -> Split:
    """Write a split row by row, so that memory does not grow with its size. Return its counts."""
    folder.mkdir(parents=True)
    offsets = [0]
    targets: list[int] = []
    starts: list[int] = []
    longest = cut = 0
    counts, used, unused = Counter[str](), Counter[tuple[str, ...]](), Counter[str]()
    with (
        (folder / "tokens.raw").open("wb") as tokens,
        (folder / "is_target.raw").open("wb") as marks,
        (folder / "texts.jsonl").open("w", encoding="utf-8") as texts,
    ):
        for row in rows:
            tokens.write(np.asarray(row.ids, dtype=np.int32).tobytes())
            marks.write(np.asarray(row.is_target, dtype=np.bool_).tobytes())
            texts.write(
                json.dumps(Texts(row.prompt, row.reference, row.prompt_ids)._asdict(), ensure_ascii=False) + "\n"
            )
            starts.append(row.answer_start)
            counts.update(counted(row.counts))
            if row.counts:
                used[row.counts.used] += 1
                unused.update(row.counts.unused)
            offsets.append(offsets[-1] + len(row.ids))
            targets.append(sum(row.is_target[1:]))  # nothing predicts a row's first token
            longest = max(longest, len(row.ids))
            cut += row.is_cut
    np.save(folder / "offsets.npy", np.asarray(offsets, dtype=np.int64))
    np.save(folder / "targets.npy", np.asarray(targets, dtype=np.int64))
    np.save(folder / "answer_starts.npy", np.asarray(starts, dtype=np.int64))
    for name, dtype in (("tokens", np.int32), ("is_target", np.bool_)):
        add_header(folder / f"{name}.raw", folder / f"{name}.npy", dtype, offsets[-1])
    return Split(
        rows=len(offsets) - 1,
        tokens=offsets[-1],
        target_tokens=sum(targets),
        longest=longest,
        cut_rows=cut,
        conversations=counts["conversations"],
        answers=counts["answers"],
        target_answers=counts["target_answers"],
        dropped_sequences=counts["dropped_sequences"],
        rows_with_marks=counts["rows_with_marks"],
        rows_with_template=counts["rows_with_template"],
        used_columns={json.dumps(names): number for names, number in used.most_common()},
        unused_columns=dict(unused),
    )


def counted(counts: Counts | None) -> dict[str, int]:
    """Return what a row adds to the counts of its split, by the names of the fields of Split."""
    if counts is None:
        return {}
    return {
        "conversations": 1,
        "answers": counts.answers,
        "target_answers": counts.target_answers,
        "dropped_sequences": counts.dropped,
        "rows_with_marks": int(counts.has_marks),
        "rows_with_template": int(counts.has_template),
    }


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
