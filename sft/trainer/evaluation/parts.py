"""Evaluation of several data sets: which rows are asked, and what is found on each data set."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from sft.run.records import AnswerForm, AnswerLine, MixturePart, Moment, PartResults
from sft.settings.kinds import AskedForm
from sft.trainer.data.mixed_rows import MixedRows
from sft.trainer.data.rows import Rows
from sft.trainer.evaluation import answer_forms
from sft.trainer.evaluation.score import Answer, results, scored

Item = TypeVar("Item", Answer, AnswerLine)


def asked(rows: Rows, limit: int) -> list[int]:
    """Return the numbers of the rows to answer: the first `limit` ones, or all if it is 0.

    With several data sets these are the first ones of each: as many as its share of all rows that can be asked, and at
    least one if the limit allows that.
    """
    every = rows.asked()
    if not isinstance(rows, MixedRows) or not limit or limit >= len(every):
        return [int(index) for index in every][: limit or None]
    rank = np.zeros(len(rows))  # how far a row is in its data set, from 0 to below 1
    for numbers in rows.numbers_of_parts():
        mine = np.intersect1d(numbers, every)
        rank[mine] = np.arange(len(mine)) / max(1, len(mine))
    return sorted(int(index) for index in every[np.argsort(rank[every], kind="stable")][:limit])


def data_sets(rows: Rows) -> list[Rows]:
    """Return the rows of each data set."""
    return rows.parts if isinstance(rows, MixedRows) else [rows]


def mean(rows: Rows, losses: Sequence[float | None]) -> float | None:
    """Return the mean loss over all targets from that of each data set; None without rows."""
    if len(losses) == 1:
        return losses[0]
    known = [(loss, int(part.targets.sum())) for loss, part in zip(losses, data_sets(rows), strict=True)]
    targets = sum(number for loss, number in known if loss is not None)
    return sum(loss * number for loss, number in known if loss is not None) / targets if targets else None


def named_losses(parts: Sequence[MixturePart], rows: Rows, losses: Sequence[float | None]) -> dict[str, float | None]:
    """Return the mean loss over all targets, and that of each data set if there are several, by names of metrics."""
    of_each = {f"val/loss/{part.name}": loss for part, loss in zip(parts, losses, strict=False)}
    return {"val/loss": mean(rows, losses)} | of_each


def answered(rows: Rows, items: Sequence[Item]) -> list[list[Item]]:
    """Return the answers to the rows of each data set: their numbers are those of rows, not of sequences."""
    if not isinstance(rows, MixedRows):
        return [list(items)]
    return [[item for item in items if start <= item.index < end] for start, end in itertools.pairwise(rows.before)]


def verdicts(
    rows: Rows, answers: Sequence[Answer], form: AskedForm, moment: Moment
) -> tuple[list[AnswerLine], AnswerForm, list[str]]:
    """Return the answers with their verdicts, the form in which they were compared, and a line about it for each.

    The answers of each data set are compared in its own form.
    """
    lines: list[AnswerLine] = []
    forms: list[AnswerForm] = []
    said = []
    of_each = [mine for mine in answered(rows, answers) if mine] or [[]]
    for mine in of_each:
        decided = answer_forms.decide([answer.reference for answer in mine], form)
        lines += scored(mine, decided.form, moment)
        forms.append(decided.form)
        said.append(decided.line)
    return lines, forms[0] if len(set(forms)) == 1 else "mixed", said


def of_parts(
    parts: Sequence[MixturePart], rows: Rows, losses: Sequence[float | None], lines: Sequence[AnswerLine]
) -> list[PartResults]:
    """Return what was found on each data set; nothing if there is only one."""
    if not isinstance(rows, MixedRows):
        return []
    found = []
    for part, loss, mine in zip(parts, losses, answered(rows, lines), strict=True):
        its_own = results(mine, "mixed")
        found.append(
            PartResults(
                name=part.name,
                loss=loss,
                rows=part.validation.conversations,
                answers=its_own.answers,
                exact_match=its_own.exact_match,
                exact_match_flexible=its_own.exact_match_flexible,
            )
        )
    return found
