"""The word that only the nodes of a run know, and how one of them proves that it does."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import time
from pathlib import Path

WORD = "SFT_LINK_WORD"  # in the environment of nodes that were started over ssh
WRITTEN_S = 2.0  # within which another node has written the file that it has made


def word_of(runs: Path) -> str:
    """Return the word that the nodes of a run know: that of the environment, or of a file that only this user reads.

    Raises OSError.
    """
    if word := os.environ.get(WORD):
        return word
    path = runs / f".link-word-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        runs.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32) + "\n")
    deadline = time.monotonic() + WRITTEN_S
    while not (found := path.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.05)  # another node is writing it
    return found


def proof(word: str, nonce: str, rank: int) -> str:
    """Return what only a node that knows the word can answer."""
    return hmac.new(word.encode(), f"node {rank} {nonce}".encode(), "sha256").hexdigest()
