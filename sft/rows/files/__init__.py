"""The rows of one local file, of any kind, read one by one.

An unusable row stops no reader: its error comes in its place, so that all of them can be named at once. pyarrow is
imported only for Parquet, Arrow and .zst files, so that a host of containers can do without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sft.errors import DataError, SettingsError, wrong
from sft.rows.files import arrow_files, csv_files, json_files, other_kinds
from sft.rows.row import ReadRow as ReadRow
from sft.rows.row import Row as Row
from sft.rows.row import row_or_error as row_or_error
from sft.settings.fields import BINARY_SUFFIXES, COMPRESSED_SUFFIXES, TEXT_SUFFIXES

READERS = {
    ".jsonl": json_files.read_json,
    ".ndjson": json_files.read_json,
    ".json": json_files.read_json,
    ".csv": csv_files.read_csv,
    ".tsv": csv_files.read_csv,
    ".parquet": arrow_files.read_parquet,
    ".arrow": arrow_files.read_arrow,
}
KINDS = f"{', '.join(TEXT_SUFFIXES)} (also {' and '.join(COMPRESSED_SUFFIXES)}), {', '.join(BINARY_SUFFIXES)}"


def kind(path: Path) -> str | None:
    """Return the suffix that says how a file is read, as in ".csv" of "train.csv.gz", or None if it is not known."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED_SUFFIXES:
        return suffixes[-2] if len(suffixes) > 1 and suffixes[-2] in TEXT_SUFFIXES else None
    return suffixes[-1] if suffixes and suffixes[-1] in READERS else None


def read_file(path: Path, part: str | None = None) -> Iterator[ReadRow]:
    """Yield the rows of a local file, with errors in place of those that cannot be read.

    `part`: the split to read, of a JSON file that has several. Raises SettingsError for an unknown file type.
    """
    known = kind(path)
    if known is None:
        raise SettingsError([wrong("DATASET", path, "has an unknown file type", f"use {KINDS}")])
    try:
        other_kinds.check(path)
        yield from json_files.read_part(path, part) if part else READERS[known](path)
    except DataError as error:  # the rest of this file cannot be read
        yield str(path), error
