"""Long rows with parts left out, so that several of them can be read one below the other."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sft.run.shown_rows import Piece

LONG_TOKENS = 2000  # a sequence of more tokens is shortened
LONG_PIECE = 800  # characters of a piece that are shown at most, half of them at its beginning and half at its end
MOST_PIECES = 40  # that are shown at most, half of them at the beginning and half at the end


@dataclass(frozen=True)
class LeftOut:
    """A place at which something is left out."""

    tokens: int = 0  # of whole pieces; 0: part of a piece, which is `characters` long
    characters: int = 0

    def __str__(self) -> str:
        amount, what = (self.tokens, "token") if self.tokens else (self.characters, "character")
        return f"[… {amount:,} {what}{'s' * (amount != 1)} left out …]"


def shortened(pieces: list[Piece]) -> list[Piece | LeftOut]:
    """Return the pieces of a sequence; the middle of each long piece, and of a long list of pieces, left out.

    Every border between context and targets that is shown is shown as it is: text is only left out inside of a piece,
    or with the pieces around it.
    """
    if sum(len(piece.ids) for piece in pieces) <= LONG_TOKENS:
        return list(pieces)
    half = MOST_PIECES // 2
    middle = pieces[half:-half] if len(pieces) > MOST_PIECES + 1 else []
    first, last = (pieces[:half], pieces[-half:]) if middle else (pieces, [])
    gap = [LeftOut(tokens=sum(len(piece.ids) for piece in middle))] if middle else []
    return [part for piece in first for part in parts(piece)] + gap + [part for piece in last for part in parts(piece)]


def parts(piece: Piece) -> list[Piece | LeftOut]:
    """Return a piece, or its beginning and end if it is long."""
    if len(piece.text) <= LONG_PIECE:
        return [piece]
    half = LONG_PIECE // 2
    return [
        replace(piece, text=piece.text[:half]),
        LeftOut(characters=len(piece.text) - LONG_PIECE),
        replace(piece, text=piece.text[-half:]),
    ]
