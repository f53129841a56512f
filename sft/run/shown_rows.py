"""What `make rows` shows: the JSON that `sft.trainer.data.show_rows` prints and `sft/host/rows/` turns into text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sft.run.records import LookCounts, MixturePart, Split, TemplateFacts
from sft.run.typed_json import Part, Record

# context: the model only reads it. target: it learns to write it. end: the target that ends an answer.
Kind = Literal["context", "target", "end"]
SplitName = Literal["train", "validation"]
ROWS = 3  # that are shown if their number is not given


@dataclass(frozen=True)
class RowChoice:
    """Which rows to show."""

    split: SplitName = "train"
    number: int = ROWS
    index: int | None = None  # one row, from 0
    longest: bool = False
    cut: bool = False
    ids: bool = False


@dataclass(frozen=True, kw_only=True)
class Piece(Part):
    """Neighbouring tokens of one kind: either control tokens of the model, or ordinary text."""

    kind: Kind
    is_control: bool
    text: str
    ids: list[int]
    token_texts: list[str] = field(default_factory=list)  # of each token, if they were asked for


@dataclass(frozen=True, kw_only=True)
class Sequence(Part):
    """What a step of training sees of a row."""

    pieces: list[Piece]
    target_tokens: int  # that count towards the loss: not the first token of a sequence
    cut_tokens: int  # beyond MAX_LENGTH

    @property
    def tokens(self) -> int:
        """Its length."""
        return sum(len(piece.ids) for piece in self.pieces)


@dataclass(frozen=True, kw_only=True)
class ShownRow(Part):
    """A row of the data set, with all its sequences."""

    index: int  # in its split, from 0
    where: str  # as in "train.jsonl:7"
    answers: int
    target_answers: int  # that are trained
    has_marks: bool = False  # its text holds control marks of the model
    has_template: bool = False  # its text holds a whole turn of the chat template
    lost: list[str] = field(default_factory=list)  # characters that the tokenizer loses
    dropped: str = ""  # why none of it is trained
    sequences: list[Sequence]


@dataclass(frozen=True, kw_only=True)
class Bar(Part):
    """The number of sequences whose lengths are between two numbers of tokens, both included."""

    least: int
    most: int
    sequences: int


@dataclass(frozen=True, kw_only=True)
class ShownRows(Record):
    """Some rows of a split as they are trained, and figures of the whole split."""

    split: SplitName
    rows: list[ShownRow]
    number: int  # of rows in the split, those that cannot be used among them
    counts: Split | None  # None: they are not known before `problems` are solved
    lengths: list[Bar]
    template: TemplateFacts | None
    parts: list[MixturePart] = field(default_factory=list)  # of several data sets
    looks: LookCounts | None = None  # of both splits
    problems: list[str]  # a line for each of the first rows that cannot be used, and one with the number of the others
