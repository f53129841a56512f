"""Which columns of a data set are trained, and which are not, in words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from sft.errors import shown
from sft.nouns import counted
from sft.run.records import Split

MOST = 6  # combinations of columns, and columns that are not used, that are named


def columns(*splits: Split) -> Iterator[str]:
    """Yield a line with the columns that are used, and one with those that are not. Both count rows of all splits."""
    used = sum((Counter(split.used_columns) for split in splits), Counter[str]())
    if len(used) == 1:
        yield listed(json.loads(next(iter(used))))
    elif used:
        first = [f"{listed(json.loads(names))} ({counted(rows, 'row')})" for names, rows in used.most_common(MOST)]
        yield "; ".join(first) + more(len(used) - MOST, "other combination")
    unused = sum((Counter(split.unused_columns) for split in splits), Counter[str]())
    if unused:
        first = [f"{shown(name)} ({counted(rows, 'row')})" for name, rows in unused.most_common(MOST)]
        yield f"not used: {', '.join(first)}{more(len(unused) - MOST, 'other column')}; COLUMNS can give them roles"


def listed(names: list[str]) -> str:
    """Return the names of columns in words."""
    return ", ".join(map(shown, names))


def more(number: int, what: str) -> str:
    """Return the words for those that are not named, if there are any."""
    return f" and {counted(number, what)}" if number > 0 else ""
