"""What the looks at the rows found, gathered while rows are prepared, and written to `looks.json` beside them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

from sft.rows.looks.compare import Found, compare
from sft.rows.looks.seen import Seen
from sft.rows.looks.table import BY_NAME
from sft.run import typed_json
from sft.run.records import FoundRow, LookCounts, LookFound, Looks
from sft.run.records.looks import SplitName
from sft.trainer.data.rows import Dropped, Texts, TokenisedRow, texts_of

FILE = "looks.json"
MOST_ROWS = 1000  # of each look that the file names
SHOWN = 200  # characters of each text


class Split:
    """The rows of a split that were looked at, and the sequence at which each of them ends."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.ends = array("q")
        self.sequences = 0

    def rows(self, rows: Iterator[TokenisedRow | Dropped]) -> Iterator[TokenisedRow | Dropped]:
        """Yield the rows as they are, and note what the looks found."""
        for row in rows:
            if isinstance(row, TokenisedRow):
                if row.counts and row.counts.looked_at:
                    self.seen.add(row.counts.looked_at)
                    self.ends.append(self.sequences)
                self.sequences += 1
            yield row


class Gathered:
    """What is known of both splits, once their rows have passed by."""

    def __init__(self) -> None:
        self.splits: dict[SplitName, Split] = {"train": Split(), "validation": Split()}

    def train(self, rows: Iterator[TokenisedRow | Dropped]) -> Iterator[TokenisedRow | Dropped]:
        return self.splits["train"].rows(rows)

    def validation(self, rows: Iterator[TokenisedRow | Dropped]) -> Iterator[TokenisedRow | Dropped]:
        return self.splits["validation"].rows(rows)

    def write(self, folder: Path) -> LookCounts:
        """Compare the rows, write what was found beside them, and return the numbers."""
        train, validation = self.splits["train"].seen, self.splits["validation"].seen
        found = compare(train, validation)
        counts = LookCounts(
            train_rows=len(train),
            validation_rows=len(validation),
            train={item.look: len(item.rows) for item in found if item.split == "train"},
            validation={item.look: len(item.rows) for item in found if item.split == "validation"},
            odd_rows=odd_rows(found),
        )
        typed_json.write(folder / FILE, Looks(counts=counts, found=self.named(found, folder)))
        return counts

    def named(self, found: list[Found], folder: Path) -> list[LookFound]:
        """Return the rows that were found with their places and texts."""
        wanted: dict[SplitName, set[int]] = {"train": set(), "validation": set()}
        for item in found:
            wanted[item.split].update(item.rows[:MOST_ROWS].tolist())
        texts = {split: self.texts(split, rows, folder / split) for split, rows in wanted.items()}
        return [self.of_look(item, texts[item.split]) for item in found]

    def of_look(self, item: Found, texts: dict[int, Texts]) -> LookFound:
        """Return what a look found. `texts` has those of its first rows, by their numbers."""
        rows = item.rows[:MOST_ROWS].tolist()
        places = self.splits[item.split].seen.places.of(rows)
        likes: list[str] | list[None] = [None] * len(rows)
        if item.like is not None:
            likes = self.splits["train"].seen.places.of(item.like[:MOST_ROWS].tolist())
        named = [
            FoundRow(
                where=where,
                like=like,
                prompt=texts[row].prompt[:SHOWN],
                answer=beginning_and_end(texts[row].reference),
            )
            for row, where, like in zip(rows, places, likes, strict=True)
        ]
        return LookFound(look=item.look, split=item.split, number=len(item.rows), rows=named)

    def texts(self, split: SplitName, rows: set[int], folder: Path) -> dict[int, Texts]:
        """Return the texts of some rows of a split, by their numbers. They are read from the file: few are named."""
        if not rows:
            return {}
        row_of = {self.splits[split].ends[row]: row for row in sorted(rows)}
        return dict(zip(row_of.values(), texts_of(folder, row_of), strict=True))


def odd_rows(found: list[Found]) -> int:
    """Return how many rows are odd in one way or more."""
    return len({(item.split, row) for item in found if BY_NAME[item.look].group == "odd" for row in item.rows.tolist()})


def beginning_and_end(text: str) -> str:
    """Return a text, without its middle if it is long: looks are about beginnings and ends."""
    half = SHOWN // 2
    return text if len(text) <= SHOWN else f"{text[:half]} … {text[-half:]}"
