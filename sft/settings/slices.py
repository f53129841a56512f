"""Which rows of which splits TRAIN_SPLIT and EVAL_SPLIT name: `train`, `train[:10%]`, `train[100:200]`, `a+b[-5%:]`.

The rules are those of Hugging Face's `datasets` (ReadInstruction): bounds as in Python, and percentages rounded to the
nearest row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FORM = re.compile(r"(?P<split>[\w.-]+)(\[((?P<start>-?\d+)(?P<a>%)?)?:((?P<stop>-?\d+)(?P<b>%)?)?\])?", re.ASCII)
NONE = "none"  # EVAL_SPLIT: every row is for training
EXAMPLES = "train, train[:10%], train[100:200] or several joined by +"


@dataclass(frozen=True)
class Slice:
    """A split, or some of its rows. Negative bounds count from its end."""

    split: str
    start: int | None = None
    stop: int | None = None
    percent: bool = False

    def __str__(self) -> str:
        if self.is_whole:
            return self.split
        bounds = ["" if bound is None else f"{bound}{'%' * self.percent}" for bound in (self.start, self.stop)]
        return f"{self.split}[{':'.join(bounds)}]"

    @property
    def is_whole(self) -> bool:
        """Whether no bound is given."""
        return self.start is None and self.stop is None

    @property
    def needs_count(self) -> bool:
        """Whether its rows depend on how many the split has."""
        return not self.is_whole and (self.percent or any(bound is not None and bound < 0 for bound in self.bounds))

    @property
    def bounds(self) -> tuple[int | None, int | None]:
        return self.start, self.stop

    def of(self, rows: int) -> range:
        """Return the numbers of its rows, of a split that has so many."""
        start, stop = (self.place(bound, rows) for bound in self.bounds)
        return range(0 if start is None else start, rows if stop is None else stop)

    def place(self, bound: int | None, rows: int) -> int | None:
        """Return where a bound is among the rows."""
        if bound is None:
            return None
        row = round(bound * rows / 100) if self.percent else bound
        return min(max(rows + row, 0) if row < 0 else row, rows)


def parse(text: str) -> list[Slice]:
    """Return what a TRAIN_SPLIT or an EVAL_SPLIT names. Raises ValueError."""
    found = []
    for part in text.split("+") if text not in ("", NONE) else []:
        form = FORM.fullmatch(part.strip())
        if form is None:
            raise ValueError(f"does not name splits, as {EXAMPLES} do")
        start, stop = (int(form[name]) if form[name] else None for name in ("start", "stop"))
        percent = bool(form["a"] or form["b"])
        if percent and any(bound is not None and abs(bound) > 100 for bound in (start, stop)):
            raise ValueError("has a percentage above 100")
        found.append(Slice(form["split"], start, stop, percent))
    return found


def overlap(one: Slice, other: Slice, rows: int | None = None) -> bool:
    """Tell whether two slices share rows of a split that has so many; without that number, whether they surely do."""
    if one.split != other.split:
        return False
    if rows is None:
        kinds = [slice for slice in (one, other) if not slice.is_whole]
        if all(slice.percent for slice in kinds):
            rows = 100
        elif any(slice.needs_count for slice in kinds):
            return False
        else:
            rows = 1 + max(bound or 0 for slice in kinds for bound in slice.bounds)
    first, second = one.of(rows), other.of(rows)
    return max(first.start, second.start) < min(first.stop, second.stop)
