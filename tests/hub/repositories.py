"""What the hub of the tests holds: repositories with revisions, and who may read them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["models", "datasets"]
LARGE_BYTES = 20_000  # a larger file is stored apart (as with LFS), behind a redirect


@dataclass
class Repository:
    """A model or a data set. Every call of `push` makes a commit, and moves the branch `main` there."""

    kind: Kind
    name: str
    gated: bool = False
    private: bool = False
    disabled: bool = False
    readers: set[str] = field(default_factory=set)  # tokens that have access, if it is gated or private
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)  # branches and tags
    sizes: dict[str, int] = field(default_factory=dict)  # that the listing claims of files, instead of their own

    def push(self, files: dict[str, bytes | str], revision: str = "main") -> str:
        """Add a commit with these files and return its hash."""
        content = {name: data.encode() if isinstance(data, str) else data for name, data in files.items()}
        digest = hashlib.sha1(f"{self.name}{len(self.commits)}".encode(), usedforsecurity=False).hexdigest()
        self.commits[digest] = content
        self.revisions[revision] = digest
        return digest

    def commit_of(self, revision: str) -> str | None:
        """Return the commit of a branch, of a tag or of itself."""
        return revision if revision in self.commits else self.revisions.get(revision)

    def may_read(self, token: str | None) -> bool:
        return not (self.gated or self.private) or token in self.readers


def etag(data: bytes) -> str:
    """Return what identifies a file: SHA-256 of a large one, git's hash of another."""
    if len(data) > LARGE_BYTES:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def entry(name: str, data: bytes, size: int | None = None) -> dict[str, object]:
    """Return a file as the hub lists it."""
    found: dict[str, object] = {"type": "file", "path": name, "size": size or len(data), "oid": etag(data)[:40]}
    if len(data) > LARGE_BYTES:
        found["lfs"] = {"oid": etag(data), "size": len(data), "pointerSize": 134}
    return found
