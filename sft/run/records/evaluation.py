"""`evaluation.json`: how good the base and the tuned model are."""

from __future__ import annotations

from dataclasses import field

from sft.run.light import dataclass
from sft.run.records.state import Moment
from sft.run.typed_json import Part, Record


@dataclass(frozen=True, kw_only=True)
class Sample(Part):
    """A held-out row, answered."""

    prompt: str
    reference: str
    answer: str
    correct: bool
    correct_flexible: bool


@dataclass(frozen=True, kw_only=True)
class Results(Part):
    """What an evaluation found; shares are None without rows."""

    loss: float | None = None
    rows: int = 0
    answers: int = 0
    exact_match: float | None = None
    exact_match_flexible: float | None = None
    samples: list[Sample] = field(default_factory=list)
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
