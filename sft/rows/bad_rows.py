"""Collect the rows that cannot be used, so that one error names them all."""

from __future__ import annotations

from sft.errors import DataError

LISTED = 10  # rows that the error names; it counts the others


class BadRows:
    """The rows of a data set that cannot be used."""

    def __init__(self) -> None:
        self.first: list[str] = []
        self.number = 0

    def add(self, error: DataError) -> None:
        self.number += 1
        if self.number <= LISTED:
            self.first.append(str(error))

    def check(self) -> None:
        """Raise DataError if there are any: a line for each of the first ones, and how many more there are."""
        if self.number > LISTED:
            more = self.number - LISTED
            raise DataError("\n".join([*self.first, f"and {more:,} more row{'s' * (more > 1)} that cannot be used"]))
        if self.number:
            raise DataError("\n".join(self.first))
