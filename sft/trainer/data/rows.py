"""Prepared rows on disk: tokens and target marks of all rows in flat arrays, memory-mapped, never loaded whole.

A split is a folder of `tokens.npy` (int32), `is_target.npy` (bool), `offsets.npy` (int64, rows + 1), `targets.npy`
(int64, the targets of each row), `answer_starts.npy` (int64, the tokens before the answer that evaluation asks for),
`row_numbers.npy` (int64, which row of the data set's split it is of) and `texts.jsonl` (prompt and reference of each
row, for evaluation).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from sft.rows.looks.row import LookedAt

Row = tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]  # a row's token ids, and which of them are targets


class Texts(NamedTuple):
    """What evaluation needs of a row beside its tokens."""

    prompt: str
    reference: str
    prompt_ids: list[int] | None = None  # None: the tokens before the answer


DropReason = Literal["longer than MAX_LENGTH", "no target is left within MAX_LENGTH", "empty"]
TOO_LONG, NO_TARGET, EMPTY = get_args(DropReason)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row of the data set that is not trained."""

    reason: DropReason
    length: int  # tokens of its longest sequence; 0 if it is not dropped for them


class Counts(NamedTuple):
    """What is counted of a row of the data set that is trained, however many sequences it has."""

    answers: int
    target_answers: int
    length: int  # tokens of its longest sequence before any is cut
    is_cut: bool  # MAX_LENGTH leaves out some of it
    dropped: int  # sequences of which MAX_LENGTH leaves no target
    left_out: int  # messages that follow the last target
    has_marks: bool  # of the model, in its text
    has_template: bool  # the opening of a whole turn, in its text
    used: tuple[str, ...] = ()  # columns
    unused: tuple[str, ...] = ()  # filled columns
    lost: tuple[str, ...] = ()  # characters that the tokenizer loses
    looked_at: LookedAt | None = None


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


Tokenised = list[TokenisedRow] | Dropped  # what becomes of a row: its sequences, if it is trained


@lru_cache
def same(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the same object for equal names: what a process sends to another holds one of them but once."""
    return names


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
        self.row_of: npt.NDArray[np.int64] = np.load(folder / "row_numbers.npy")

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

    def asked(self) -> npt.NDArray[np.int64]:
        """Return the numbers of the rows that have an answer for evaluation to ask for."""
        return np.flatnonzero(self.answer_starts >= 0)

    def prompt_ids(self, index: int) -> list[int]:
        """Return the tokens before the answer that evaluation asks for."""
        ids, _ = self[index]
        return ids[: self.answer_starts[index]].tolist()

    def texts(self) -> Iterator[Texts]:
        """Yield every row's texts."""
        yield from texts_of(self.folder)


def texts_of(folder: Path, chosen: Container[int] | None = None) -> Iterator[Texts]:
    """Yield the texts of a split's rows in order: of all of them, or of those with the chosen numbers.

    Of several data sets, each has a numbered folder of its own.
    """
    several = sorted(folder.glob("[0-9]*/texts.jsonl"), key=lambda path: int(path.parent.name))
    numbers = itertools.count()
    for path in several or [folder / "texts.jsonl"]:
        with path.open(encoding="utf-8") as file:
            for line, number in zip(file, numbers, strict=False):
                if chosen is None or number in chosen:
                    yield Texts(**json.loads(line))
