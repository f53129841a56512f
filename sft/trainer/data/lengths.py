"""The lengths of sequences as a histogram."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from sft.run.shown_rows import Bar

BARS = 10  # about
USUAL = 0.99  # of the sequences are in ranges of equal width


def histogram(lengths: npt.NDArray[np.int64]) -> list[Bar]:
    """Return the numbers of sequences in ranges of equal width; the last range holds the few that are far longer."""
    if not len(lengths):
        return []
    longest = int(lengths.max())
    usual = int(np.quantile(lengths, USUAL))
    width = round_width(usual / BARS)
    starts = list(range(int(lengths.min()) // width * width, usual + 1, width))
    edges = [*starts, starts[-1] + width]
    if longest >= edges[-1]:
        edges.append(longest + 1)
    counts = np.histogram(lengths, edges)[0].tolist()
    bars = zip(edges, edges[1:], counts, strict=False)
    return [Bar(least=start, most=end - 1, sequences=number) for start, end, number in bars]


def round_width(least: float) -> int:
    """Return the smallest number of the series 1, 2, 5, 10, 20, 50, … that is not below `least`."""
    return next(
        width for power in itertools.count() for width in (10**power, 2 * 10**power, 5 * 10**power) if width >= least
    )
