"""SHA-256 of files. Hashes of large data files are kept in DATA_PATH/hashes.json, so that 50 GB are read only once.

A stored hash is valid as long as the file's inode, size and times are the same: whoever changes a byte also changes the
inode's ctime, which nobody can set. Hashes of files that had just been changed are not stored: another change within
the same tick of the clock would not show.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import field
from pathlib import Path

from sft.run import files, typed_json
from sft.run.light import dataclass
from sft.run.typed_json import Part, Record

LARGE_BYTES = 2**26  # smaller files are hashed every time
SETTLED_S = 10.0  # longer than a tick of a file system's clock, or its difference to ours
NAME = "hashes.json"


def file_hash(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, kw_only=True)
class KeptHash(Part):
    """A file's hash, and what the file was like when it was read."""

    stamp: list[int]
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Hashes(Record):
    """`DATA_PATH/hashes.json`."""

    files: dict[str, KeptHash] = field(default_factory=dict)  # by path

    @classmethod
    def upgraded(cls, content: object, version: int) -> object:
        """Return the content of a file that had the paths at its top."""
        return {"files": content}


def kept_hash(path: Path, data_path: Path, large: int = LARGE_BYTES) -> str:
    """Return a data file's SHA-256. If a large file has not changed, it is the one in DATA_PATH."""
    if path.stat().st_size < large:
        return file_hash(path)
    place, key = data_path / NAME, str(path.resolve())
    before, read_at = stamp(path), time.time()
    kept = read(place).files.get(key)
    if kept and kept.stamp == before:
        return kept.sha256
    digest = file_hash(path)
    status = path.stat()
    if stamp(path) == before and read_at - max(status.st_ctime, status.st_mtime) > SETTLED_S:
        others = {name: entry for name, entry in read(place).files.items() if name != key and Path(name).exists()}
        typed_json.write(place, Hashes(files=others | {key: KeptHash(stamp=before, sha256=digest)}))
    return digest


def stamp(path: Path) -> list[int]:
    """Return what changes whenever a file's content changes."""
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def read(place: Path) -> Hashes:
    """Return the stored hashes; none if they cannot be read."""
    try:
        return typed_json.read(place, Hashes)
    except (OSError, files.Unreadable):
        return Hashes()


def short_hash(*parts: object) -> str:
    """Return a hash of values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
