"""The word that only the nodes of a run know, and how one of them proves that it does."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from pathlib import Path

from sft.run import files

WORD = "SFT_LINK_WORD"  # in the environment of nodes that were started over ssh


def word_of(runs: Path) -> str:
    """Return the word that the nodes of a run know: that of the environment, or of a file that only this user reads.

    Raises OSError.
    """
    if word := os.environ.get(WORD):
        return word
    path = runs / f".link-word-{os.getuid()}"
    if not path.exists():
        runs.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another node has just made it
            files.write_first(path, secrets.token_hex(32) + "\n", mode=0o600)
    return path.read_text().strip()


def proof(word: str, nonce: str, rank: int) -> str:
    """Return what only a node that knows the word can answer."""
    return hmac.new(word.encode(), f"node {rank} {nonce}".encode(), "sha256").hexdigest()
