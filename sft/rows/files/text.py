"""Text files, compressed or not, line by line; a text that is not UTF-8 is named, with the command that converts it."""

from __future__ import annotations

import codecs
import gzip
import io
import shlex
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from sft.errors import DataError, shown
from sft.settings.kinds import is_unicode

MARKS = {  # what a text of another encoding begins with; that of UTF-16 is also the beginning of that of UTF-32
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def lines(path: Path, keep_ends: bool = False) -> Iterator[str]:
    """Yield the lines of a text file. `keep_ends`: with their line breaks as they are, which csv needs.

    Raises DataError for a line that is not UTF-8, and for compressed data that is damaged.
    """
    number = 0
    with path.open("rb") as raw:
        try:
            with opened(raw, path, keep_ends) as text:
                for number, line in enumerate(text, 1):
                    check_utf8(line, path, number)
                    yield line
        except (OSError, EOFError, zlib.error) as error:
            if not compression(path):
                raise
            place = f"{path}:{number + 1}"
            raise DataError(f"{place}: cannot be decompressed ({shown(error)}); compress the file again") from None


def head(path: Path, characters: int) -> str:
    """Return the beginning of a text file. Raises DataError like `lines`."""
    found = ""
    for line in lines(path):
        found += line
        if len(found) >= characters:
            break
    return found[:characters]


def compression(path: Path) -> str | None:
    """Return ".gz", ".zst" or None for a file that is not compressed."""
    suffix = path.suffix.lower()
    return suffix if suffix in (".gz", ".zst") else None


def opened(raw: BinaryIO, path: Path, keep_ends: bool) -> TextIO:
    """Return the text of an open file. Bytes that are not UTF-8 become lone surrogates. Raises DataError for UTF-16."""
    found: io.BufferedIOBase = cast(io.BufferedIOBase, raw)
    if compression(path) == ".gz":
        found = gzip.GzipFile(fileobj=raw)
    elif compression(path) == ".zst":
        import pyarrow

        found = io.BufferedReader(pyarrow.input_stream(raw, compression="zstd"))
    check_encoding(cast(io.BufferedReader, found).peek(4)[:4], path)
    return io.TextIOWrapper(
        cast(BinaryIO, found), encoding="utf-8-sig", errors="surrogateescape", newline="" if keep_ends else None
    )


def check_encoding(first: bytes, path: Path) -> None:
    """Raise DataError if a file's first four bytes are those of UTF-16 or UTF-32, with or without their mark."""
    name = next((name for mark, name in MARKS.items() if first.startswith(mark)), None)
    if name is None and len(first) == 4:
        zeros = "".join("0" if byte == 0 else "x" for byte in first)
        name = {"x0x0": "UTF-16LE", "0x0x": "UTF-16BE"}.get(zeros)
    if name:
        raise DataError(f"{path}:1: is {name} text; convert the file to UTF-8: {conversion(path, name)}")


def check_utf8(line: str, path: Path, number: int) -> None:
    """Raise DataError for a line that was not UTF-8."""
    if not is_unicode(line):
        how = f"convert the file to UTF-8; if it is Windows-1252: {conversion(path, 'CP1252')}"
        raise DataError(f"{path}:{number}: is not UTF-8 text; {how}")


def conversion(path: Path, encoding: str) -> str:
    """Return the command that converts a text file to UTF-8 in its place."""
    name, new = shown(shlex.quote(str(path)), 300), "utf-8.tmp"
    read, write = {
        None: (f"iconv -f {encoding} -t UTF-8 {name}", ""),
        ".gz": (f"gzip -dc {name} | iconv -f {encoding} -t UTF-8", " | gzip"),
        ".zst": (f"zstd -dc {name} | iconv -f {encoding} -t UTF-8", " | zstd"),
    }[compression(path)]
    return f"{read}{write} > {new} && mv {new} {name}"
