"""The commands that a page of the documentation shows."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = "make|inv|scancel|sshfs|rsync|kubectl|sky|id"


def commands_of(page: str) -> list[str]:
    """Return the commands of a page, in blocks and in sentences, without comments and what their output goes to."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = re.findall(r"^(?:\w+)?\$ (.+)$", text, re.MULTILINE)
    named = re.findall(rf"`((?:{PROGRAMS})(?: [^`]+)?)`", text)
    return list(dict.fromkeys(re.split(r" +#| +>", line)[0].strip() for line in (*lines, *named)))


def words_of(page: str, beginning: str, **instead: str) -> list[str]:
    """Return the words of the only command that begins so, with some values replaced by those that are there."""
    (command,) = (found for found in commands_of(page) if found.startswith(beginning))
    words = command.split()
    for name, value in instead.items():
        (number,) = (number for number, word in enumerate(words) if word.startswith(f"{name}="))
        words[number] = f"{name}={value}"
    return words
