"""The rows of a split that were looked at: digests, lengths and places, less than a hundred bytes a row."""

from __future__ import annotations

from array import array

from sft.rows.looks.row import LookedAt

DIGITS = "0123456789"
MOST_DIGITS = 12  # of the number of a row
NO_NUMBER = -1


class Places:
    """Places of rows, as in "train.jsonl:7": the number of each, and what comes before it once for all rows."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.name_of = array("q")
        self.numbers = array("q")

    def add(self, where: str) -> None:
        name = where.rstrip(DIGITS)
        digits = where[len(name) :]
        is_number = 0 < len(digits) <= MOST_DIGITS and (digits[0] != "0" or digits == "0")
        self.name_of.append(self.names.setdefault(name if is_number else where, len(self.names)))
        self.numbers.append(int(digits) if is_number else NO_NUMBER)

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
