"""Looks that compare rows: repeated ones, held-out ones that are in training too, far longer ones.

They work on arrays of digests: a second for a million rows.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sft.rows.looks.digests import Digests
from sft.rows.looks.seen import Places, Seen
from sft.rows.looks.table import ORDER

Keys = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]
SplitName = Literal["train", "validation"]

MEDIAN_ANSWER = 20  # characters: where half of all answers have as many, one character is odd
LONG_TIMES = 100  # times the median of its split
LONG_CHARACTERS = 20_000  # at least


class Found(NamedTuple):
    """The rows of a split that a look found."""

    look: str
    split: SplitName
    rows: Numbers
    like: Numbers | None = None  # for each of them, the first training row that it is like


def compare(train: Seen, held_out: Seen) -> list[Found]:
    """Return what all looks found that found anything, in the order of the table."""
    found = [*repeated(train), *leaked(train, held_out)]
    splits: tuple[tuple[SplitName, Seen], ...] = (("train", train), ("validation", held_out))
    for split, seen in splits:
        found += [Found(name, split, np.asarray(rows, np.int64)) for name, rows in seen.odd.items()]
        found += lengths(split, seen)
    return sorted((item for item in found if len(item.rows)), key=lambda item: (ORDER[item.look], item.split))


def repeated(train: Seen) -> list[Found]:
    """Return the training rows that repeat an earlier one, or its question.

    A row that is read several times on purpose, from one place, is a single row here.
    """
    rows = once(train.places)
    of = {name: keys[rows] for name, keys in columns(train).items()}
    every = np.arange(len(rows))
    first = first_with(of["row"])
    first_alike = first_with(joined(of["alike"], of["answer"]))
    is_copy = first != every
    is_alike = ~is_copy & (first_alike != every)
    others = np.flatnonzero(~is_copy & ~is_alike)
    asked = others[first_with(of["question"][others])]
    again = others[asked != others]
    before = asked[asked != others]
    results = of["result"]
    contradicts = (results[again] != 0) & (results[before] != 0) & (results[again] != results[before])
    return [
        Found("repeated", "train", rows[is_copy], rows[first[is_copy]]),
        Found("repeated_alike", "train", rows[is_alike], rows[first_alike[is_alike]]),
        Found("contradiction", "train", rows[again[contradicts]], rows[before[contradicts]]),
        Found("several_answers", "train", rows[again[~contradicts]], rows[before[~contradicts]]),
    ]


def leaked(train: Seen, held_out: Seen) -> list[Found]:
    """Return the held-out rows that are in training too, each once, as the strongest of the three kinds."""
    trained, held = columns(train), columns(held_out)
    left = np.arange(len(held_out))
    found = []
    for look, key in (("leaked", "row"), ("leaked_question", "question"), ("leaked_alike", "alike")):
        like = first_in(trained[key], held[key][left])
        found.append(Found(look, "validation", left[like >= 0], like[like >= 0]))
        left = left[like < 0]
    return found


def lengths(split: SplitName, seen: Seen) -> list[Found]:
    """Return the rows that are far shorter or far longer than the others of their split."""
    if not len(seen):
        return []
    answers, whole = np.asarray(seen.answer_characters), np.asarray(seen.characters)
    found = []
    if np.median(answers) >= MEDIAN_ANSWER:
        found.append(Found("short", split, np.flatnonzero(answers == 1)))
    limit = max(LONG_CHARACTERS, LONG_TIMES * float(np.median(whole)))
    return [*found, Found("long", split, np.flatnonzero(whole > limit))]


# Arrays


def columns(seen: Seen) -> dict[str, Keys]:
    """Return each kind of digest of all rows, as numbers."""
    table = np.frombuffer(bytes(seen.digests), dtype=np.uint64).reshape(-1, len(Digests._fields))
    return {name: np.ascontiguousarray(table[:, place]) for place, name in enumerate(Digests._fields)}


def joined(first: Keys, second: Keys) -> Keys:
    """Return one key for each pair."""
    return first * np.uint64(0x9E3779B97F4A7C15) + second


def once(places: Places) -> Numbers:
    """Return the rows without those whose place an earlier one has, in order."""
    keys = (np.asarray(places.name_of, np.int64) << 40) + np.asarray(places.numbers, np.int64)
    return np.sort(np.unique(keys, return_index=True)[1])


def first_with(keys: Keys) -> Numbers:
    """Return for each row the number of the first row with the same key: its own number if it is that row."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], np.int64)


def first_in(keys: Keys, wanted: Keys) -> Numbers:
    """Return for each wanted key the number of the first row that has it, or -1."""
    known, first = np.unique(keys, return_index=True)
    if not len(known):
        return np.full(len(wanted), -1)
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[place] == wanted, first[place], -1)
