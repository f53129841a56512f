"""Words about the rows that are dropped, and about those that MAX_LENGTH does not hold, for errors and warnings."""

from __future__ import annotations

from sft.errors import DataError
from sft.run.records import Split
from sft.settings.fields import Settings
from sft.settings.mixture import title

MANY = 0.01  # of the rows: if more than that are cut or dropped, a warning says so


def check(split: Split, name: str, settings: Settings, remedy: str = "") -> None:
    """Raise DataError if rows were read and every one of them is dropped. `name`: which rows, in words."""
    if split.rows or not split.dropped_rows:
        return
    remedies = [f"raise it: {holding(split)}"] if split.holds_most else ["add some that are not"]
    remedies += [remedy] if remedy else []
    setting = f"MAX_LENGTH={settings.max_length}" if split.holds_most else f"DATASET={title(settings)}"
    what = f"no {name} row is left ({', '.join(reasons(split))})"
    raise DataError(f"{setting}: {what}; {', or '.join(remedies)}")


def warning(split: Split, settings: Settings) -> str:
    """Return the warning for a split of which more than MANY of the rows do not fit into MAX_LENGTH, or ""."""
    if not split.holds_most:
        return ""
    what = f"{split.too_long / split.read:.1%} of the rows ({split.too_long:,} of {split.read:,}) are cut or dropped"
    return f"{what} at MAX_LENGTH={settings.max_length}: {holding(split)}"


def holding(split: Split) -> str:
    """Return which MAX_LENGTH holds how many of the rows."""
    if split.holds_most == split.holds_all:
        return f"{split.holds_all} holds all of them"
    return f"{split.holds_most} holds 99 % of them, {split.holds_all} all"


def reasons(split: Split) -> list[str]:
    """Return how many rows are dropped, and why."""
    return [f"{number:,} dropped: {reason}" for reason, number in split.dropped.items()]
