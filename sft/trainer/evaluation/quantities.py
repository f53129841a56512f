"""Numbers as people and models write them, with or without a unit, compared exactly: `$1,234.50`, `2 1/2`, `5 km`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction

from sft.trainer.evaluation import units
from sft.trainer.evaluation.spelling import key, plain

MOST_DIGITS = 1000  # longer ones are compared as texts: Python's int refuses some, and the arithmetic takes seconds
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}

# 1,234,567 and 1 234 567; 12,34,567 as in India. 1,23 is not a number.
WHOLE = r"(?:[1-9]\d{0,2}(?:,\d{2,3})*,\d{3}(?!\d)|[1-9]\d{0,2}(?:[ ]\d{3})+(?![\d/])|\d+)"
DECIMAL = rf"(?:{WHOLE}(?:\.\d+)?|(?<![\w.])\.\d+)"
NUMBER = rf"""
    (?P<sign>SIGN)?
    (?P<currency>(?:US|CA|AU|HK)?[$€£¥₹₩₽][ ]?)?
    (?P<inner_sign>(?<=[$€£¥₹₩₽ ])[+-])?
    (?:
        (?:(?P<whole>\d+)[ ]+(?:and[ ]+)?)?(?P<above>{DECIMAL})[ ]?/[ ]?(?P<below>{DECIMAL})
      | (?P<number>{DECIMAL})(?:[eE](?P<exponent>[+-]?\d+)(?![\w.]))?
    )
    (?:[ ]?[×x*·][ ]?10\^\(?(?P<power>[+-]?\d+)\)?)?
    (?:[ ]?(?P<scale>{"|".join(SCALES)})(?![a-z]))?
"""
FLAGS = re.VERBOSE | re.IGNORECASE | re.ASCII
ALONE = re.compile(NUMBER.replace("SIGN", "[+-][ ]?"), FLAGS)
# In a text: `4-5` has no sign, `- 5` is an item of a list.
ANYWHERE = re.compile(NUMBER.replace("SIGN", r"(?<![\w)\]%.$])[+-]"), FLAGS)
POWER_OF_TEN = re.compile(r"([+-]?)10\^\(?([+-]?\d+)\)?")
LABEL = re.compile(r"(\\?[^\W\d][\w ']*(?:\(\w\))?)\s*=\s*(?![=])")
BRACKETS = re.compile(r"\(([^,()]*)\)|\{([^,{}]*)\}")


@dataclass(frozen=True)
class Quantity:
    """A number with what is written around it."""

    value: Fraction
    unit: frozenset[str] = field(default_factory=frozenset)  # its words, each in one spelling (units.py)
    label: str = ""  # `x` in `x = 5`

    def agrees(self, other: object) -> bool:
        """Whether both are the same. A unit or a label counts if both have one: `5 km` is `5`, but not `5 m`."""
        if not isinstance(other, Quantity):
            return False
        labels = {self.label, other.label} - {""}
        return self.value == other.value and units.agree(self.unit, other.unit) and len(labels) < 2


def read_quantity(text: str) -> Quantity | None:
    """Return the quantity that a text is as a whole, or None."""
    text = plain(text)
    label, text = without_label(text)
    if brackets := BRACKETS.fullmatch(text):
        text = (brackets[1] or brackets[2] or "").strip()
    if ten := POWER_OF_TEN.fullmatch(text):
        text = f"{ten[1]}1e{ten[2]}"
    found = ALONE.match(text)
    if not found or (value := value_of(found)) is None:
        return None
    unit = units.read(text[found.end() :])
    if unit is None:
        return None
    return Quantity(value, unit | (units.read(found["currency"] or "") or frozenset()), key(label))


def without_label(text: str) -> tuple[str, str]:
    """Split `x = 5` into `x` and `5`; the label is "" if there is none."""
    found = LABEL.match(text)
    return (found[1].strip(), text[found.end() :]) if found else ("", text)


def value_of(found: re.Match[str]) -> Fraction | None:
    """Return the value of a number that was found; None if it has none, or is too long."""
    if len(found[0]) > MOST_DIGITS or (found["sign"] and found["inner_sign"]):
        return None
    exponent = int(found["exponent"] or 0) + int(found["power"] or 0) + SCALES.get((found["scale"] or "").lower(), 0)
    if abs(exponent) > MOST_DIGITS:
        return None
    if found["below"]:
        below = number(found["below"])
        if not below:
            return None
        value = int(found["whole"] or 0) + number(found["above"]) / below
    else:
        value = number(found["number"])
    sign = -1 if "-" in (found["sign"] or "") + (found["inner_sign"] or "") else 1
    return sign * value * Fraction(10) ** exponent


def number(digits: str) -> Fraction:
    """Return the value of digits with separators: `1,234.5`."""
    return Fraction(re.sub("[, ]", "", digits))


def is_part_of_term(found: re.Match[str]) -> bool:
    """Tell whether a number found in a text is part of a term, such as `2x`, `x^2` or `√2`: then it is no answer."""
    before, after = found.string[: found.start()][-1:], found.string[found.end() :][:2]
    variable = re.fullmatch(r"[A-Za-zα-ωπ](?![A-Za-z]).?", after) and after[0] not in units.LETTERS
    return before in tuple("^_√") or after[:1] == "^" or bool(variable)
