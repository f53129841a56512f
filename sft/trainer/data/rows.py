"""Prepared rows on disk: tokens and target marks of all rows in flat arrays, memory-mapped, never loaded whole.

A split is a folder of `tokens.npy` (int32), `is_target.npy` (bool), `offsets.npy` (int64, rows + 1), `targets.npy`
(int64, the targets of each row) and `texts.jsonl` (prompt and reference of each row, for evaluation).
"""

from __future__ import annotations

import json
import shutil
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


class TokenisedRow(NamedTuple):
    """One row: its token ids, which of them are targets, and the texts for evaluation."""

    ids: list[int]
    is_target: list[bool]
    prompt: str
    reference: str
    is_cut: bool = False  # at MAX_LENGTH


class Rows:
    """The rows of a prepared split, read from disk as they are needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.offsets: npt.NDArray[np.int64] = np.load(folder / "offsets.npy")
        self.tokens: npt.NDArray[np.int32] = np.load(folder / "tokens.npy", mmap_mode="r")
        self.is_target: npt.NDArray[np.bool_] = np.load(folder / "is_target.npy", mmap_mode="r")
        self.lengths: npt.NDArray[np.int64] = np.diff(self.offsets)
        self.targets: npt.NDArray[np.int64] = np.load(folder / "targets.npy")

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

    def prompt_ids(self, index: int) -> list[int]:
        """Return the tokens before a row's last answer (its last run of targets): generation starts from them."""
        ids, is_target = self[index]
        targets = np.flatnonzero(is_target)
        gaps = np.flatnonzero(np.diff(targets) > 1)
        first = targets[gaps[-1] + 1] if len(gaps) else targets[0]
        return ids[:first].tolist()

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
    longest = cut = 0
    with (
        (folder / "tokens.raw").open("wb") as tokens,
        (folder / "is_target.raw").open("wb") as marks,
        (folder / "texts.jsonl").open("w", encoding="utf-8") as texts,
    ):
        for row in rows:
            tokens.write(np.asarray(row.ids, dtype=np.int32).tobytes())
            marks.write(np.asarray(row.is_target, dtype=np.bool_).tobytes())
            texts.write(json.dumps({"prompt": row.prompt, "reference": row.reference}, ensure_ascii=False) + "\n")
            offsets.append(offsets[-1] + len(row.ids))
            targets.append(sum(row.is_target[1:]))  # nothing predicts a row's first token
            longest = max(longest, len(row.ids))
            cut += row.is_cut
    np.save(folder / "offsets.npy", np.asarray(offsets, dtype=np.int64))
    np.save(folder / "targets.npy", np.asarray(targets, dtype=np.int64))
    for name, dtype in (("tokens", np.int32), ("is_target", np.bool_)):
        add_header(folder / f"{name}.raw", folder / f"{name}.npy", dtype, offsets[-1])
    return Split(rows=len(offsets) - 1, tokens=offsets[-1], target_tokens=sum(targets), longest=longest, cut_rows=cut)


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
