"""Files that are not what their names say, known by their first bytes: a compressed one, a pointer of git-lfs."""

from __future__ import annotations

from pathlib import Path

from sft.errors import DataError
from sft.stored_weights import POINTER

RENAME, PACKED = "give its name the ending {}", "unpack it, and give what is in it"
BEGINNINGS: dict[bytes, tuple[str, str, str]] = {  # what it is, what its name ends with, and what to do if not
    b"\x1f\x8b": ("compressed with gzip", ".gz", RENAME),
    b"\x28\xb5\x2f\xfd": ("compressed with Zstandard", ".zst", RENAME),
    b"PAR1": ("a Parquet file", ".parquet", RENAME),
    b"ARROW1": ("an Arrow file", ".arrow", RENAME),
    b"PK\x03\x04": ("a zip archive or a file of Excel", ".zip", f"{PACKED}, or save the sheet as CSV UTF-8"),
    b"BZh91AY&SY": ("compressed with bzip2", ".bz2", PACKED),
    b"\xfd7zXZ\0": ("compressed with xz", ".xz", PACKED),
    POINTER: ("a git-lfs pointer and not the file", "", "fetch the file with `git lfs pull`"),
}
LONGEST = max(map(len, BEGINNINGS))


def check(path: Path) -> None:
    """Raise DataError for a file that is of another kind than its name says. A pipe is left alone: it is read once."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        first = file.read(LONGEST)
    for beginning, (what, ending, remedy) in BEGINNINGS.items():
        if first.startswith(beginning) and (not ending or path.suffix.lower() != ending):
            raise DataError(f"{path}: is {what}; {remedy.format(ending)}")
