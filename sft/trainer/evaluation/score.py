"""Score a generated answer, strictly and leniently."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sft.run.records import Results, Sample

SAMPLES = 3  # answers that the report shows
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Answer:
    """A generated answer, with the row that it belongs to."""

    index: int  # of the row
    prompt: str
    reference: str
    answer: str  # its words, without reasoning
    generated: str = ""  # everything, control marks included
    tokens: int = 0  # that were generated
    ended: bool = True  # with an end mark, not at MAX_NEW_TOKENS


def score(answers: list[Answer]) -> Results:
    """Return the shares of right answers, with the first ones as samples. The fields of the loss are left empty."""
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
    """Tell whether an answer is right in the strict sense.

    If the reference has a number after `####`, as in GSM8K, the answer must have the same number after `####`: this is
    the data set's own evaluation. Otherwise the whole texts are compared, apart from case and white space.
    """
    if "####" in reference:
        return "####" in answer and same_number(answer.split("####")[1], reference.split("####")[-1])
    return " ".join(answer.split()).casefold() == " ".join(reference.split()).casefold()


def is_flexible_match(answer: str, reference: str) -> bool:
    """Tell whether the last number in the answer is that of the reference. Without numbers, as `is_exact_match`."""
    expected, found = NUMBER.findall(reference.split("####")[-1]), NUMBER.findall(answer)
    if not expected:
        return is_exact_match(answer, reference)
    return bool(found) and same_number(found[-1], expected[-1])


def same_number(left: str, right: str) -> bool:
    """Tell whether two texts begin with the same number, apart from thousands separators and currency signs."""
    numbers = [NUMBER.match(text.strip().lstrip("$€£ ")) for text in (left, right)]
    if not all(numbers):
        return False
    values = [float(number[0].replace(",", "")) for number in numbers if number]
    return values[0] == values[1]
