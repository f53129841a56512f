"""All looks at a single row."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from sft.rows.looks.answers import answers, is_loop
from sft.rows.looks.characters import characters, holds_marks
from sft.rows.looks.digests import digests
from sft.rows.looks.said import Said


class LookedAt(NamedTuple):
    """What the looks found out about a row. One is sent between processes for every row: small on purpose."""

    where: str
    digests: bytes  # one behind the other
    answer_characters: int
    characters: int  # of the whole row
    odd: tuple[str, ...]  # names of looks


def look(said: Said, where: str, has_marks: bool = False) -> LookedAt:
    """Look at a row. `has_marks`: it is known already that its text holds marks of the model itself."""
    odd = set(characters(said.text))
    for turn in said.turns:
        odd.update(answers(turn))
    if not said.turns and is_loop(said.answer):
        odd.add("loop")
    if not has_marks and holds_marks(said.text):
        odd.add("marks")
    names = same(tuple(sorted(odd))) if odd else ()
    return LookedAt(where, b"".join(digests(said)), len(said.answer.strip()), len(said.text), names)


@lru_cache
def same(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the same object for equal names: what a process sends to another holds one of them but once."""
    return names
