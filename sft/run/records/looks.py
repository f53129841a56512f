"""`looks.json` beside prepared data: what the looks before training found. The manifest has its numbers."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from sft.run.light import dataclass
from sft.run.typed_json import Part, Record

SplitName = Literal["train", "validation"]


@dataclass(frozen=True, kw_only=True)
class FoundRow(Part):
    """A row that a look found."""

    where: str  # as in "train.jsonl:7"
    like: str | None = None  # the place of the training row that it is like, if the look compares rows
    prompt: str  # its beginning
    answer: str  # its beginning and its end


@dataclass(frozen=True, kw_only=True)
class LookFound(Part):
    """What a look found in a split."""

    look: str  # its name in sft/rows/looks/table.py
    split: SplitName
    number: int  # of rows
    rows: list[FoundRow]  # the first ones


@dataclass(frozen=True, kw_only=True)
class LookCounts(Part):
    """How many rows the looks found."""

    train_rows: int = 0  # that were looked at
    validation_rows: int = 0
    train: dict[str, int] = field(default_factory=dict)  # rows by look; only looks that found any
    validation: dict[str, int] = field(default_factory=dict)
    odd_rows: int = 0  # of both splits; a row that is odd in two ways counts once


@dataclass(frozen=True, kw_only=True)
class Looks(Record):
    """`data/prepared/KEY/looks.json`."""

    counts: LookCounts
    found: list[LookFound]
