"""Score generated answers: `exact_match`, where the answer must be in its place, and the lenient last number.

Values are compared, not spellings: `#### 5.0` is `#### $5`, and `#### 1/2` is not `#### 1/3`. docs/evaluation.md says
in full what counts as the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sft.run.records import AnswerForm, AnswerLine, Moment, Results, Sample
from sft.trainer.evaluation import answer_forms
from sft.trainer.evaluation.answer_forms import Part, boxed, is_short, marked, reference_mark, reference_said, said
from sft.trainer.evaluation.choices import last_choice, read_choice, said_choice
from sft.trainer.evaluation.spelling import key
from sft.trainer.evaluation.values import has_words, named, read_value, same, same_number, same_text, term

SAMPLES = 3  # answers that the report shows


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


@dataclass(frozen=True)
class Verdict:
    """What was compared, and whether it is the same."""

    expected: str  # in the reference
    found: str | None  # in the answer, in the place where the reference has it
    last: str | None  # in the answer, wherever it is
    is_exact: bool
    is_last: bool


def scored(answers: Sequence[Answer], form: AnswerForm, moment: Moment) -> list[AnswerLine]:
    """Return all answers with their verdicts."""
    found = []
    for item in answers:
        verdict = compare(item.answer, item.reference, form)
        found.append(
            AnswerLine(
                moment=moment, index=item.index, prompt=item.prompt, reference=item.reference, answer=item.answer,
                generated=item.generated, tokens=item.tokens, ended=item.ended,
                expected=verdict.expected, found=verdict.found, found_flexible=verdict.last,
                correct=verdict.is_exact, correct_flexible=verdict.is_last,
            )
        )  # fmt: skip
    return found


def results(scored: Sequence[AnswerLine], form: AnswerForm) -> Results:
    """Return the shares of right answers, with the first ones as samples. The fields of the loss are left empty."""
    number = len(scored)
    samples = [
        Sample(
            prompt=item.prompt, reference=item.reference, answer=item.answer,
            correct=item.correct, correct_flexible=item.correct_flexible,
        )
        for item in scored[:SAMPLES]
    ]  # fmt: skip
    return Results(
        answers=number,
        cut_answers=sum(not item.ended for item in scored),
        answer_form=form if number else None,
        exact_match=sum(item.correct for item in scored) / number if number else None,
        exact_match_flexible=sum(item.correct_flexible for item in scored) / number if number else None,
        samples=samples,
    )


def compare(answer: str, reference: str, form: AnswerForm) -> Verdict:
    """Compare an answer with its reference. `mixed`: in the form that this reference has."""
    if form == "mixed":
        form = answer_forms.form_of(reference)
    expected = wanted(reference, form)
    if key(answer) == key(reference):
        return Verdict(expected.text, expected.text, expected.text, True, True)
    found = in_place(answer, expected, form)
    agree = same_text if form == "text" else same
    is_exact = found is not None and agree(found, expected.text)
    if form == "text":
        form = answer_forms.form_of(reference)  # the last number is that of the reference's answer, too
    last, is_last = compare_last(answer, wanted(reference, form), form, is_exact)
    return Verdict(expected.text, found, last, is_exact, is_last)


# Strict


def wanted(reference: str, form: AnswerForm) -> Part:
    """Return the part of a reference that an answer is compared with."""
    if form == "text":
        return Part(reference)
    mark, box = reference_mark(reference), boxed(reference)
    part = (box or mark) if form == "boxed" else (mark or box)
    if part or is_short(reference):
        return part or Part(reference)
    if form != "boxed" and (part := reference_said(reference)):
        return part
    return last_named(reference, form) or Part(reference)


def last_named(text: str, form: AnswerForm) -> Part | None:
    """Return the last number or choice that a sentence names; None if it names none."""
    if form == "choice":
        chosen = said_choice(text)
        return Part(chosen, "last") if chosen else None
    values = named(text) if form == "number" else []
    return Part(values[-1].text, "last") if values else None


def in_place(answer: str, expected: Part, form: AnswerForm) -> str | None:
    """Return the part of an answer that is in the place where the reference has it; None if nothing is there.

    The first `####` counts, as in GSM8K: an answer that runs on asks and answers more. Where a number is expected, a
    mark before something else is passed over. The last box counts, as in MATH.
    """
    if expected.place == "mark":
        parts = [part.text for part in marked(answer)]
        if read_value(expected.text):
            parts = [part for part in parts if read_value(part)] or parts
        return parts[0] if parts else None
    if expected.place == "box" or form == "boxed":
        box = boxed(answer)
        return box.text if box else None
    if expected.place == "said":
        part = said(answer)
        return part.text if part else None
    if expected.place == "last":
        part = last_named(answer, form)
        return part.text if part else None
    return answer


# Lenient


def compare_last(answer: str, expected: Part, form: AnswerForm, is_exact: bool) -> tuple[str | None, bool]:
    """Return what an answer says last, and whether that is right."""
    value, choice = read_value(expected.text), read_choice(expected.text)
    if form != "text" and choice and not value:
        chosen = last_choice(answer, choice)
        return (choice.chosen, True) if is_exact else (chosen, chosen == choice.chosen)
    stated = boxed(answer) or next((part for part in marked(answer)[-1:] if part.is_last), None)
    if form != "text" and stated:
        found = read_value(stated.text)
        right = same_number(found, value) if value else same(stated.text, expected.text)
        if right or stated.place == "box" or (value and found):
            return stated.text, right
    if value:
        last = named(answer)[-1:]
        return (last[0].text, same_number(last[0].value, value)) if last else (None, False)
    return last_of_text(answer, expected, is_exact, bool(stated))


def last_of_text(answer: str, expected: Part, is_exact: bool, is_stated: bool) -> tuple[str | None, bool]:
    """Compare with a text that is neither a value nor a choice.

    A sentence with numbers: its last one, and all of them if the reference marks it as the answer. Otherwise the answer
    must end with the text if that is short or marked, unless it has stated another one (`is_stated`).
    """
    numbers = named(expected.text) if has_words(expected.text) else []
    if numbers:
        numbers = numbers[-1:] if expected.place == "whole" else numbers
        last = named(answer)[-len(numbers) :]
        pairs = zip(last, numbers, strict=False)
        right = len(last) == len(numbers) and all(b.value and same_number(a.value, b.value) for a, b in pairs)
        return ", ".join(item.text for item in last) or None, right
    if is_exact or (expected.place == "whole" and has_words(expected.text)):
        return expected.text if is_exact else None, is_exact
    right = not is_stated and ends_with(term(answer), term(expected.text))
    return expected.text if right else None, right


def ends_with(text: str, end: str) -> bool:
    """Tell whether a text ends with a term or words, which do not begin inside of a longer one."""
    before = text[: len(text) - len(end)]
    if not end or not text.endswith(end) or re.search(r"[.,+\-*/^√(]\s*$", before):
        return False
    return not (before[-1:].isalnum() and end[0].isalnum()) and not (before[-1:].isdigit() and end[0] in "([{")
