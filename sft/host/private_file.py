"""Files that only their owner may read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_first(path: Path, text: str) -> bool:
    """Write a file that is not there yet, whole. Return False if there is one: the first writer's stays."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", encoding="utf-8") as file:
        file.write(text)  # with mode 0600, which tempfile gives
        file.flush()
        try:
            os.link(file.name, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            return copied(path, text)
    return True


def copied(path: Path, text: str) -> bool:
    """Write it under its own name, where others may see half of it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return True
