"""Which data sets a run is made of, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sft.errors import shown
from sft.nouns import counted
from sft.run.records import MixturePart
from sft.settings.shares import Share

MOST = 20  # data sets that are named


def parts(found: Sequence[MixturePart]) -> Iterator[str]:
    """Yield a line for each data set of several: how many of its rows an epoch trains, and how many are held out."""
    total = sum(part.train.rows * part.repeats for part in found)
    for part in found[:MOST]:
        taken = f"{counted(part.taken, 'row')}" if part.taken == part.rows else f"{part.taken:,} of {part.rows:,} rows"
        times = f", each {part.repeats} times" if part.repeats > 1 else ""
        share = f", {part.train.rows * part.repeats / total:.1%} of an epoch" if total else ""
        yield f"{shown(part.name)}: {taken}{times}{share}; {part.validation.conversations:,} for evaluation"
        wanted = Share.parse(part.share).rows
        if wanted and wanted > part.rows:
            yield f"{shown(part.name)}: its share is {wanted:,} rows, but there are only {part.rows:,}"
    if len(found) > MOST:
        yield f"and {counted(len(found) - MOST, 'more data set')}"
