"""The rows of a split that were looked at: digests, lengths and places, less than a hundred bytes a row."""

from __future__ import annotations

import re
from array import array

from sft.rows.looks.row import LookedAt

NUMBERED = re.compile(r"(.*\D)(0|[1-9]\d{0,11})", re.DOTALL)
NO_NUMBER = -1


class Places:
    """Places of rows, as in "train.jsonl:7": the number of each, and what comes before it once for all rows."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.name_of = array("q")
        self.numbers = array("q")

    def add(self, where: str) -> None:
        found = NUMBERED.fullmatch(where)
        name, number = (found[1], int(found[2])) if found else (where, NO_NUMBER)
        self.name_of.append(self.names.setdefault(name, len(self.names)))
        self.numbers.append(number)

    def __len__(self) -> int:
        return len(self.numbers)

    def of(self, rows: list[int]) -> list[str]:
        """Return the places of some rows as they were added."""
        names = list(self.names)
        return [
            names[self.name_of[row]] + (str(self.numbers[row]) if self.numbers[row] != NO_NUMBER else "")
            for row in rows
        ]


class Seen:
    """What is known of the rows of a split, in their order."""

    def __init__(self) -> None:
        self.places = Places()
        self.digests = bytearray()
        self.answer_characters = array("q")
        self.characters = array("q")
        self.odd: dict[str, list[int]] = {}  # rows by look

    def __len__(self) -> int:
        return len(self.places)

    def add(self, row: LookedAt) -> None:
        for name in row.odd:
            self.odd.setdefault(name, []).append(len(self))
        self.places.add(row.where)
        self.digests += row.digests
        self.answer_characters.append(row.answer_characters)
        self.characters.append(row.characters)
