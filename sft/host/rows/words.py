"""Words about rows that the terminal and the page share."""

from __future__ import annotations

from sft.run.shown_rows import Sequence, ShownRow, ShownRows


def title(row: ShownRow, found: ShownRows) -> str:
    """Return which row it is."""
    return f"row {row.index} of {found.number:,}, {row.where}"


def size(sequence: Sequence, number: int, row: ShownRow) -> str:
    """Return how long a sequence is: the `number`th of its row, from 1."""
    of = f"sequence {number} of {len(row.sequences)}: " if len(row.sequences) > 1 else ""
    return f"{of}{counted(sequence.tokens, 'token')}, {sequence.target_tokens:,} of them targets"


def cut(sequence: Sequence, max_length: int) -> str:
    """Return what is cut off a sequence, or ""."""
    if not sequence.cut_tokens:
        return ""
    what = f"its last {counted(sequence.cut_tokens, 'token')}" if sequence.cut_tokens > 1 else "its last token"
    return f"cut at MAX_LENGTH={max_length}: {what} {'is' if sequence.cut_tokens == 1 else 'are'} not trained"


def answers(targets: int, number: int) -> str:
    """Return how many answers are trained."""
    return f"{targets:,} of {counted(number, 'answer')} {'is a target' if number == 1 else 'are targets'}"


def counted(number: int, what: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {what}{'s' * (number != 1)}"
