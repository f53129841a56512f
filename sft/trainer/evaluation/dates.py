"""Dates and times of day as people and models write them: `2024-05-01`, `May 1, 2024`, `3:30 pm`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sft.trainer.evaluation.spelling import plain

MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
MONTH = r"(?P<month>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
YEAR = r"(?P<year>\d{4})"
DATES = [
    re.compile(rf"(?<![\w.]){pattern}(?![\w])", re.IGNORECASE)
    for pattern in (
        rf"{YEAR}[ ]?[-/.年][ ]?(?P<month>\d{{1,2}})[ ]?[-/.月][ ]?(?P<day>\d{{1,2}})日?",
        rf"{MONTH} {DAY},? {YEAR}",
        rf"{DAY}(?: of)? {MONTH},? {YEAR}",
    )
]
# The day or the month first: nobody knows, so such a date is compared with its own kind alone.
EITHER = re.compile(rf"(?<![\w./-])(?P<day>\d{{1,2}})[-/.](?P<month>\d{{1,2}})[-/.]{YEAR}(?![\w/-])")
TIME = re.compile(
    r"(?<![\w:.])(?P<hour>\d{1,2})(?::(?P<minute>\d{2})(?::(?P<second>\d{2}))?)?(?![\d:])(?:\s*(?P<half>[ap])\.?m\b\.?)?",
    re.IGNORECASE | re.ASCII,
)


@dataclass(frozen=True)
class Date:
    """A day. `order`: whether it is known which of the numbers is the month."""

    year: int
    month: int
    day: int
    order: bool = True

    def agrees(self, other: object) -> bool:
        """Whether both are the same day."""
        return self == other


@dataclass(frozen=True)
class Time:
    """A time of day, or a duration; in seconds."""

    seconds: int
    half: str = ""  # a, p: before or after noon; otherwise ""

    def agrees(self, other: object) -> bool:
        """Whether both are the same. `3:30 pm` is `15:30`, and `3:30` too, which does not say which half it means."""
        if not isinstance(other, Time):
            return False
        if self.half and other.half:
            return self.of_day == other.of_day
        return self.seconds == other.seconds or self.of_day == other.of_day

    @property
    def of_day(self) -> int:
        """Seconds since midnight."""
        hour = self.seconds // 3600
        if not self.half:
            return self.seconds
        return self.seconds + 3600 * (hour % 12 + 12 * (self.half == "p") - hour)


def read_date(text: str) -> Date | None:
    """Return the date that a text is as a whole, or None."""
    text = plain(text)
    for pattern in (*DATES, EITHER):
        if found := pattern.fullmatch(text):
            return date_of(found)
    return None


def date_of(found: re.Match[str]) -> Date | None:
    """Return the date that was found; None if there is no such day."""
    year, day, month = int(found["year"]), int(found["day"]), found["month"]
    if found.re is EITHER:
        return Date(year, int(month), day, order=False)
    number = int(month) if month.isdigit() else MONTHS.index(month.lower()) + 1
    return Date(year, number, day) if 1 <= number <= 12 and 1 <= day <= 31 else None


def read_time(text: str) -> Time | None:
    """Return the time that a text is as a whole, or None."""
    found = TIME.fullmatch(plain(text))
    return time_of(found) if found else None


def time_of(found: re.Match[str]) -> Time | None:
    """Return the time that was found; None if it is a number alone, or no time."""
    hour, minute, second = (int(found[name] or 0) for name in ("hour", "minute", "second"))
    half = (found["half"] or "").lower()
    if not (found["minute"] or half) or minute > 59 or second > 59 or (half and not 1 <= hour <= 12):
        return None
    return Time(3600 * hour + 60 * minute + second, half)
