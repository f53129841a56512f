"""The rows of each data set of a run as tokens, and what became of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sft import long_rows
from sft.errors import DataError, UserError, shown
from sft.rows.bad_rows import BadRows
from sft.rows.row import ReadRow
from sft.run.records import MixturePart, RowCounts
from sft.settings.mixture import DataPart
from sft.settings.slices import NONE
from sft.trainer.data import hub, row_writer, sources
from sft.trainer.data.looks import Gathered
from sft.trainer.data.texts import TextTokeniser
from sft.trainer.data.tokenise import Tokeniser
from sft.trainer.data.workers import tokenised


def write(
    parts: Sequence[tuple[DataPart, Tokeniser | TextTokeniser]], folder: Path, looked: Gathered
) -> list[MixturePart]:
    """Write the rows of one data set below `train` and `validation`, of several in numbered folders below them.

    Raises DataError, which names the bad rows of all of them, and the data sets without training rows.
    """
    bad = BadRows()
    is_one = len(parts) == 1 and parts[0][0].share.is_all
    found = []
    for number, (part, tokeniser) in enumerate(parts):
        found.append(write_part(part, tokeniser, folder, "." if is_one else str(number), bad, looked))
    bad.check()
    problems = []
    for (part, _), written in zip(parts, found, strict=True):
        try:
            check(part, written)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    return found


def check(part: DataPart, written: MixturePart) -> None:
    """Raise DataError for a data set without rows to train on, or without those that EVAL_SPLIT names."""
    long_rows.check(written.train, "training", part.settings)
    if not written.train.rows:
        raise DataError(f"DATASET={part.name}: has no training rows; add some")
    if part.settings.eval_split not in ("", NONE) and not written.validation.rows:
        raise DataError(f"EVAL_SPLIT={shown(part.settings.eval_split)}: has no rows to evaluate on; name others")


def write_part(
    part: DataPart, tokeniser: Tokeniser | TextTokeniser, folder: Path, place: str, bad: BadRows, looked: Gathered
) -> MixturePart:
    """Write the rows of one data set. Rows that cannot be used are added to `bad`."""
    rows, kind = sources.rows_of(part), tokeniser.kind
    training, validation = Counted(rows.train), Counted(rows.validation)
    train = row_writer.write(folder / "train" / place, looked.train(tokenised(training, tokeniser, bad)), kind)
    of_validation = looked.validation(tokenised(validation, replace(tokeniser, asked=True), bad))
    held_out = row_writer.write(folder / "validation" / place, of_validation, kind)
    return MixturePart(
        name=part.name,
        share=str(part.share),
        rows=training.number if rows.there is None else rows.there,
        taken=training.number,
        held_out=validation.number,
        repeats=part.share.repeats,
        train=train,
        validation=held_out,
        commit=None if sources.dataset_folder(part.settings) else hub.commit(part.settings),
    )


class Counted:
    """Rows that are counted as they are read."""

    def __init__(self, rows: Iterator[ReadRow]) -> None:
        self.rows, self.number = rows, 0

    def __iter__(self) -> Iterator[ReadRow]:
        for row in self.rows:
            self.number += 1
            yield row


def row_counts(parts: Sequence[MixturePart]) -> RowCounts:
    """Return what became of all rows of all data sets."""
    found = RowCounts(
        read=sum(part.rows + part.held_out for part in parts),
        trained=sum(part.train.conversations for part in parts),
        dropped=sum(part.train.dropped_rows + part.validation.dropped_rows for part in parts),
        held_out=sum(part.validation.conversations for part in parts),
        not_in_share=sum(part.rows - part.taken for part in parts),
    )
    assert found.read == found.trained + found.dropped + found.held_out + found.not_in_share, found
    return found
