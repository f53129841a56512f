"""Words about rows that the terminal and the page share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sft.errors import shown
from sft.nouns import counted
from sft.run.records import RowCounts
from sft.run.shown_rows import Sequence, ShownRow, ShownRows

NAMED = 8  # characters that the tokenizer loses
LINE_BREAKS = {"\n": "line breaks", "\t": "tabs"}


def title(row: ShownRow, found: ShownRows) -> str:
    """Return which row it is."""
    return f"row {row.index} of {found.number:,}, {row.where}"


def size(sequence: Sequence, number: int, row: ShownRow) -> str:
    """Return how long a sequence is: the `number`th of its row, from 1."""
    of = f"sequence {number} of {len(row.sequences)}: " if len(row.sequences) > 1 else ""
    return f"{of}{counted(sequence.tokens, 'token')}, {sequence.target_tokens:,} of them targets"


def cut(sequence: Sequence, max_length: int, dropped: str = "") -> str:
    """Return what MAX_LENGTH cuts off a sequence, or "". `dropped`: why its row is, if it is."""
    if not sequence.cut_tokens:
        return ""
    if dropped:
        return f"{counted(sequence.cut_tokens, 'more token')} beyond MAX_LENGTH={max_length}"
    one = sequence.cut_tokens == 1
    what = f"its last {'token is' if one else f'{sequence.cut_tokens:,} tokens are'} not trained"
    left = "" if sequence.target_tokens else "; no target is left, so none of it is trained"
    return f"cut at MAX_LENGTH={max_length}: {what}{left}"


def warnings(row: ShownRow) -> Iterator[str]:
    """Yield a line for everything that is unusual about a row's text."""
    if row.dropped:
        yield f"dropped, so none of it is trained: {row.dropped}"
    if row.has_template:
        yield "its text holds a whole turn of the chat template: the template is applied twice"
    elif row.has_marks:
        yield "its text holds control marks of the model"
    if row.lost:
        yield f"it holds {lost(row.lost)}"


def lost(characters: Iterable[str]) -> str:
    """Return what is lost of a text, the most frequent characters first."""
    named = [visible_name(character) for character in characters]
    more = ", …" if len(named) > NAMED else ""
    return f"characters that the tokenizer has no token for, or makes others of: {', '.join(named[:NAMED])}{more}"


def visible_name(character: str) -> str:
    """Return a character as a message shows it, or the unknown token."""
    return LINE_BREAKS.get(character) or shown(character)


def answers(targets: int, number: int) -> str:
    """Return how many answers are trained."""
    if targets == number > 1:
        return f"all {number:,} answers are targets"
    return f"{targets:,} of {counted(number, 'answer')} {'is a target' if number == 1 else 'are targets'}"


def row_counts(counts: RowCounts) -> str:
    """Return what became of every row of a data set."""
    parts: tuple[str, ...] = (
        f"{counts.trained:,} trained",
        f"{counts.dropped:,} dropped",
        f"{counts.held_out:,} held out",
    )
    if counts.not_in_share:
        parts = (*parts, f"{counts.not_in_share:,} not in the share of their data set")
    return f"{counts.read:,} read = {' + '.join(parts)}"
