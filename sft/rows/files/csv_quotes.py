"""Quotes in CSV files that do not enclose a field though they look like it, or that enclose several; and spaces."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from sft.errors import DataError, shown

BEHIND_SPACES = re.compile(' +".*" *', re.DOTALL)


class Quotes:
    """The quotes of one file, looked at row by row.

    `lines` has those of the row that is read: a field is as it is in the file only if no quotes enclose it.
    """

    def __init__(self, separator: str) -> None:
        self.separator = separator
        self.columns = 0  # of the header
        self.names_have_spaces = False  # before them, in the header: then fields have spaces that nobody means
        self.lines: list[str] = []
        self.ordinary = ""  # the first place where a quote is an ordinary character
        self.enclosed = ""  # the first place where a field holds what looks like whole rows

    def noted(self, read: Iterable[str]) -> Iterator[str]:
        """Yield lines, and keep them until their row is checked."""
        for line in read:
            self.lines.append(line)
            yield line

    def check(self, fields: Iterable[object], where: str) -> None:
        """Check the fields of the row that was read last. Raises DataError."""
        text = self.separator + "".join(self.lines)
        self.lines.clear()
        found = [field for field in fields if isinstance(field, str)]
        for field in found if '"' in text else []:
            if '"' in field and self.separator + field in text:
                self.ordinary = self.ordinary or where
                if BEHIND_SPACES.fullmatch(field) or (len(found) > self.columns and re.match(' +"', field)):
                    what = 'a field begins with a space before its quote ("), which is then part of it'
                    raise DataError(f"{where}: {what}: {shown(field, 40)}; remove the spaces behind the separators")
            elif self.holds_rows(field):
                self.enclosed = self.enclosed or where
        for field in found[1:] if self.names_have_spaces else []:
            if field.strip() and field.startswith(" ") and self.separator + field in text:
                what = "a space follows the separator, as in the header, and is then part of the field"
                raise DataError(f"{where}: {what}: {shown(repr(field), 40)}; remove the spaces behind the separators")
        if self.ordinary and self.enclosed:
            where, self.enclosed = self.enclosed, ""
            what = f'a quote (") that begins a field encloses whole rows, and at {self.ordinary} one is an ordinary'
            remedy = "write every field that has a quote in quotes, with the quote twice"
            raise DataError(f"{where}: {what} character; {remedy}")

    def holds_rows(self, field: str) -> bool:
        """Whether a line of a field looks like a row of the file."""
        if self.columns < 2 or "\n" not in field:
            return False
        lines = (line.split(self.separator) for line in field.splitlines())
        return any(len(line) == self.columns and all(line) for line in lines)
