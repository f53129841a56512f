"""Whether two answers mean the same, and the last value that a text names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sft.trainer.evaluation.choices import read_choice
from sft.trainer.evaluation.dates import DATES, EITHER, TIME, Date, Time, date_of, read_date, read_time, time_of
from sft.trainer.evaluation.quantities import (
    ANYWHERE,
    Quantity,
    is_part_of_term,
    read_quantity,
    value_of,
    without_label,
)
from sft.trainer.evaluation.spelling import key, plain

Value = Date | Time | Quantity
AROUND_SIGNS = re.compile(r"\s*([()\[\]{},=+\-*/^<>|:;≤≥≠±×·√])\s*")


WORD = re.compile(r"(?!(?:sin|cos|tan|log|ln|pi|sqrt|mod)\b)[^\W\d_]{2,}")
LONGEST_TERM = 100


@dataclass(frozen=True)
class Named:
    """A value that a text names somewhere; None: a number that is part of a term."""

    text: str
    value: Value | None


def read_value(text: str) -> Value | None:
    """Return the date, time or quantity that a text is as a whole, or None."""
    return read_date(text) or read_time(text) or read_quantity(text)


def same(left: str, right: str, is_part: bool = False) -> bool:
    """Tell whether two answers are the same, as the first of these that both are, otherwise as texts.

    A date, a time, a quantity, a choice; a list or tuple, part by part (`is_part`: not inside of another).
    """
    if same_text(left, right):
        return True
    for read in (read_date, read_time, read_quantity):
        one, other = read(left), read(right)
        if one and other:
            return one.agrees(other)
    if read_value(left) or read_value(right):
        return False
    choices = read_choice(left), read_choice(right)
    if choices[0] and choices[1]:
        return choices[0].agrees(choices[1])
    return same_terms(left, right, is_part)


def same_text(left: str, right: str) -> bool:
    """Tell whether two texts are the same, apart from case, white space and what encloses them."""
    return key(left) == key(right)


def same_terms(left: str, right: str, is_part: bool) -> bool:
    """Tell whether two texts are the same term, tuple or words: `2x+1` and `y = 2x + 1`, `(3, 4)` and `(3,4)`."""
    labels, terms = zip(*(without_label(plain(text)) for text in (left, right)), strict=True)
    if len({key(label) for label in labels} - {""}) > 1:
        return False
    if term(terms[0]) == term(terms[1]):
        return True
    parts = [parts_of(text) for text in terms]
    if is_part or len(parts[0]) < 2 or len(parts[0]) != len(parts[1]):
        return False
    return all(same(one, other, is_part=True) for one, other in zip(*parts, strict=True))


def term(text: str) -> str:
    """Return what a term is compared by: its key, without space around signs."""
    text = AROUND_SIGNS.sub(r"\1", key(plain(text))).replace("·", "*").replace("×", "*")
    return "".join(text.split()) if "\\" in text else text


def has_words(text: str) -> bool:
    """Tell whether a text has words, other than those of terms."""
    return bool(WORD.search(plain(text)))


def is_term(text: str) -> bool:
    """Tell whether a whole text is a term with numbers, such as `(3, 4)` or `2x + 1`."""
    text = text.strip()
    return len(text) <= LONGEST_TERM and "\n" not in text and bool(re.search(r"\d", text)) and not has_words(text)


def parts_of(text: str) -> list[str]:
    """Split a list or a tuple at its commas; the brackets are a part."""
    text = text.strip()
    brackets = re.fullmatch(r"([(\[{])(.*)([)\]}])", text, re.DOTALL)
    if not brackets:
        return text.split(",")
    return [brackets[1] + brackets[3], *brackets[2].split(",")]


def named(text: str) -> list[Named]:
    """Return the values that a text names, in order."""
    text, found = plain(text), []
    for pattern in (*DATES, EITHER, TIME, ANYWHERE):

        def take(match: re.Match[str]) -> str:
            if match.re is ANYWHERE:
                number = None if is_part_of_term(match) else value_of(match)
                value: Value | None = None if number is None else Quantity(number)
            else:
                value = time_of(match) if match.re is TIME else date_of(match)
                if value is None:
                    return match[0]
            found.append((match.start(), Named(match[0].strip(), value)))
            return "\0" * len(match[0])  # no other pattern finds it again

        text = pattern.sub(take, text)
    return [name for _, name in sorted(found, key=lambda pair: pair[0])]


def same_number(left: Value | None, right: Value) -> bool:
    """Tell whether two values are the same, whatever their units."""
    if isinstance(left, Quantity) and isinstance(right, Quantity):
        return left.value == right.value
    return left is not None and left.agrees(right)
