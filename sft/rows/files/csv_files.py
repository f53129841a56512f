"""CSV files, separated by commas, semicolons, tabs or bars."""

from __future__ import annotations

import csv
import itertools
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sft.errors import DataError
from sft.rows.files import text
from sft.rows.files.arrow_files import check_once
from sft.rows.files.csv_quotes import Quotes
from sft.rows.row import ReadRow, Row, row_or_error

SEPARATORS = ",;\t|"  # if a header has several of them equally often, the first
# What is wrong, in other words than the csv module's.
REASONS = {
    "unexpected end of data": 'below this line, a field begins with a quote (") that no quote closes',
    "expected after": 'a field goes on behind the quote (") that closes it; inside of it, a quote is written twice',
}
csv.field_size_limit(sys.maxsize)


def read_csv(path: Path) -> Iterator[ReadRow]:
    """Yield the rows below the header line; empty lines are skipped."""
    found = text.lines(path, keep_ends=True)
    first, skipped = next(found, ""), 0
    said = re.fullmatch(r"sep=(.)\s*", first)  # as Excel writes it
    while first and ((said and not skipped) or not first.strip()):
        first, skipped = next(found, ""), skipped + 1
    separator = said[1] if said else separator_of(first, path)
    quotes = Quotes(separator)
    reader = csv.DictReader(quotes.noted(itertools.chain([first], found)), strict=True, delimiter=separator)

    def place() -> str:
        return f"{path}:{reader.reader.line_num + skipped}"  # that of DictReader stays behind if it raises

    try:
        begins = f"{path}:{skipped + 1}"
        names = list(reader.fieldnames or [])
        check_once(names, place())
        quotes.columns = len(names)
        quotes.check(names, place())
        quotes.names_have_spaces = any(name.startswith(" ") for name in names[1:])
        for row in reader:
            begins = place()
            yield row_or_error(partial(row_of_csv, quotes), begins, row)
    except csv.Error as error:
        what = next((reason for words, reason in REASONS.items() if words in str(error)), str(error))
        where = begins if "end of data" in str(error) else place()
        raise DataError(f"{where}: {what}; fix the line") from None


def separator_of(header: str, path: Path) -> str:
    """Return what separates the fields: a tab in .tsv, otherwise what the header has most of outside of quotes."""
    if ".tsv" in [suffix.lower() for suffix in path.suffixes[-2:]]:
        return "\t"
    plain = re.sub(r'"[^"]*("|$)', "", header.rstrip("\r\n"))
    return max(SEPARATORS, key=plain.count)


def row_of_csv(quotes: Quotes, where: str, row: dict[str | None, str | list[str] | None]) -> Row:
    """Return a row of a CSV file. Raises DataError.

    csv.DictReader puts surplus fields under the key None, and None in place of missing ones.
    """
    quotes.check(itertools.chain(row.values(), row.get(None) or ()), where)
    if all(name == value for name, value in row.items()):
        raise DataError(f"{where}: repeats the header, as files do that are joined; remove the line")
    values = [value for value in row.values() if isinstance(value, str)]
    if len(values) < len(row):
        raise DataError(f"{where}: does not have the header's number of fields; fix the line")
    return {str(name): value for name, value in row.items()}
