"""How much of a data set is trained, as written behind its name: `*0.5`, `*3x` or `*2000`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Self

MOST_TIMES = 1000  # more is a typing error
LEAST_ROWS, MOST_ROWS = 10, 2**31 - 1
LONGEST = 20  # characters
NUMBER = re.compile(r"(?P<rows>\d+)|(?P<times>\d+\.\d*|\.\d+|\d+(?=x))x?", re.ASCII | re.IGNORECASE)
EXAMPLES = "*0.5 (half of the rows), *3x (each row three times) or *2000 (2,000 rows)"


@dataclass(frozen=True)
class Share:
    """The part of a data set's training rows that an epoch trains.

    A whole number is a number of rows, or all of them if there are fewer. A number with a decimal point or an `x`
    multiplies the rows: below 1 it is a fraction of them, and a whole number trains each row so many times.
    """

    times: Decimal = Decimal(1)
    rows: int | None = None  # instead of `times`

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the share that a text such as "0.5", "3x" or "2000" means. Raises ValueError in words for users."""
        found = NUMBER.fullmatch(text.strip()) if len(text) <= LONGEST else None
        if found is None:
            raise ValueError(f"is not a share; use {EXAMPLES}")
        if found["rows"]:
            rows = int(found["rows"])
            if 0 < rows < LEAST_ROWS:  # it may be meant as times
                raise ValueError(f"may mean rows or times; use {rows}x for times, and at least {LEAST_ROWS} rows")
            if not LEAST_ROWS <= rows <= MOST_ROWS:
                raise ValueError(f"is out of range; use {LEAST_ROWS} to {MOST_ROWS} rows")
            return cls(rows=rows)
        times = Decimal(found["times"])
        if not 0 < times <= MOST_TIMES:
            raise ValueError(f"is out of range; use more than 0 and at most {MOST_TIMES}x")
        if times > 1 and times % 1:
            whole = int(times)
            raise ValueError(f"trains only some of the rows once more; use whole times, as in {whole}x or {whole + 1}x")
        return cls(times)

    @property
    def is_all(self) -> bool:
        """Whether each row is trained once in an epoch."""
        return self.rows is None and self.times == 1

    @property
    def repeats(self) -> int:
        """How often each of the rows that are taken is trained in an epoch."""
        return int(self.times) if self.rows is None and self.times > 1 else 1

    def taken(self, there: int) -> int:
        """Return how many different rows are taken of those that are there: at least one, if there is one."""
        if self.rows is not None:
            return min(self.rows, there)
        wanted = int((min(self.times, Decimal(1)) * there).to_integral_value(ROUND_HALF_UP))
        return max(wanted, min(1, there))

    def __str__(self) -> str:
        """Write the share so that `parse` reads it."""
        if self.rows is not None:
            return str(self.rows)
        return f"{int(self.times)}x" if self.times % 1 == 0 else f"{self.times.normalize():f}"


ALL = Share()
