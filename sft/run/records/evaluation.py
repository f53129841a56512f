"""`evaluation.json`: how good the base and the tuned model are."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from sft.run.light import dataclass
from sft.run.records.state import Moment
from sft.run.typed_json import Part, Record

AnswerForm = Literal["number", "boxed", "choice", "text", "mixed"]  # what answers are compared as; mixed: row by row


@dataclass(frozen=True, kw_only=True)
class AnswerLine(Part):
    """A line of `answers.jsonl`: a held-out row, answered, with what was compared."""

    moment: Moment
    index: int  # of the row among the held-out ones
    prompt: str
    reference: str
    answer: str  # its words, without reasoning
    generated: str  # everything, with reasoning and control marks
    tokens: int  # that were generated
    ended: bool  # with an end mark, not at MAX_NEW_TOKENS
    expected: str  # the reference's answer
    found: str | None  # the answer's, in the same place; None if nothing is there
    found_flexible: str | None  # the last one that the answer names
    correct: bool
    correct_flexible: bool


@dataclass(frozen=True, kw_only=True)
class Sample(Part):
    """A held-out row, answered."""

    prompt: str
    reference: str
    answer: str
    correct: bool
    correct_flexible: bool


@dataclass(frozen=True, kw_only=True)
class PartResults(Part):
    """What an evaluation found on the held-out rows of one data set of several."""

    name: str
    loss: float | None  # None without rows
    rows: int
    answers: int
    exact_match: float | None = None
    exact_match_flexible: float | None = None


@dataclass(frozen=True, kw_only=True)
class Results(Part):
    """What an evaluation found; shares are None without rows."""

    loss: float | None = None
    perplexity: float | None = None  # of texts, which have no answers
    rows: int = 0
    answers: int = 0
    cut_answers: int = 0  # that did not end within MAX_NEW_TOKENS
    answer_form: AnswerForm | None = None  # None: no answers, or from before it was noted
    exact_match: float | None = None
    exact_match_flexible: float | None = None
    samples: list[Sample] = field(default_factory=list)
    parts: list[PartResults] = field(default_factory=list)  # of several data sets, in their order
    seconds: float = 0.0
    generating_seconds: float = 0.0

    def numbers(self) -> dict[str, object]:
        """Return everything but the samples, as JSON data."""
        found = self.to_json()
        del found["samples"]
        return found


@dataclass(frozen=True, kw_only=True)
class Evaluation(Record):
    """`evaluation.json`: the base model before and the tuned one after training; None: not evaluated yet."""

    before: Results | None = None
    after: Results | None = None

    def parts(self) -> dict[Moment, Results]:
        """Return the results that there are."""
        found: dict[Moment, Results | None] = {"before": self.before, "after": self.after}
        return {moment: results for moment, results in found.items() if results}

    @property
    def exact_match_name(self) -> str:
        """What exact match is called: with the form in which the answers were compared, if that is known."""
        form = next((found.answer_form for found in reversed(self.parts().values()) if found.answer_form), None)
        return f"exact match ({form})" if form else "exact match"
