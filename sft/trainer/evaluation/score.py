"""Score a generated answer, strictly and leniently."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sft.run.records import Results, Sample

SAMPLES = 3


NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Answer:
    """A row's answer beside what it should be."""

    index: int  # of the row
    prompt: str
    reference: str
    answer: str


def score(answers: list[Answer]) -> Results:
    """Return the shares of right answers, strict and flexible, with the first rows as samples."""
    scored = [
        Sample(
            prompt=item.prompt,
            reference=item.reference,
            answer=item.answer,
            correct=is_exact_match(item.answer, item.reference),
            correct_flexible=is_flexible_match(item.answer, item.reference),
        )
        for item in answers
    ]
    number = len(scored)
    return Results(
        answers=number,
        exact_match=sum(item.correct for item in scored) / number if number else None,
        exact_match_flexible=sum(item.correct_flexible for item in scored) / number if number else None,
        samples=scored[:SAMPLES],
    )


def is_exact_match(answer: str, reference: str) -> bool:
    """Tell whether the answer ends as the reference does.

    GSM8K's form is strict: the number after `####`, which must be there (the data set's own evaluation). A reference
    without `####` is compared as a whole, but for case and white space.
    """
    if "####" in reference:
        return "####" in answer and same_number(answer.split("####")[1], reference.split("####")[-1])
    return " ".join(answer.split()).casefold() == " ".join(reference.split()).casefold()


def is_flexible_match(answer: str, reference: str) -> bool:
    """Tell whether the last number of the answer is that of the reference; without numbers, as strict."""
    wanted, found = NUMBER.findall(reference.split("####")[-1]), NUMBER.findall(answer)
    if not wanted:
        return is_exact_match(answer, reference)
    return bool(found) and same_number(found[-1], wanted[-1])


def same_number(left: str, right: str) -> bool:
    """Tell whether two texts begin with the same number, whatever their thousands separators and signs of money."""
    numbers = [NUMBER.match(text.strip().lstrip("$€£ ")) for text in (left, right)]
    if not all(numbers):
        return False
    values = [float(number[0].replace(",", "")) for number in numbers if number]
    return values[0] == values[1]
