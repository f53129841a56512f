"""Texts as tokens, each tokenised as a whole, and which tokens a part of a text became."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sft.errors import DataError, shown
from sft.trainer.data.marks import CLOSE, GUARDED, OPEN

# Many tokenizers of sentencepiece put a space before every text. A piece that is not the first one is tokenised behind
# this, whose tokens are left out again.
BEFORE = "\n"


@dataclass(frozen=True)
class Piece:
    """A part of a text that was tokenised by itself, or behind BEFORE."""

    start: int  # characters of the text before it
    text: str
    first: int  # tokens of the text before it
    ids: list[int]
    encoding: Any  # of the library `tokenizers`, or None for tokenizers without one
    is_literal: bool = False  # the model's control marks in it are ordinary text
    before: str = ""  # what it was tokenised behind
    before_ids: int = 0  # how many tokens that is

    def spans(self, place: int) -> bool:
        """Tell whether one of its tokens holds both the character of the text before a place and the one behind it."""
        at = len(self.before) + place - self.start
        if self.encoding is None or not 0 < place - self.start < len(self.text):
            return False
        token = self.encoding.char_to_token(at)
        return token is not None and token == self.encoding.char_to_token(at - 1)

    def is_swallowed(self, place: int) -> bool:
        """Tell whether a mark before a place has taken the white space behind it, as those of Phi 3 do (`rstrip`)."""
        if not self.spans(place):
            return False
        whole, at = self.before + self.text, len(self.before) + place - self.start
        start, end = self.encoding.token_to_chars(self.encoding.char_to_token(at))
        return bool(whole[start:at].strip()) and not whole[at:end].strip()


@dataclass(frozen=True)
class Encoded:
    """A text as tokens."""

    ids: list[int]
    pieces: list[Piece]
    tokenizer: Any

    def tokens_of(self, start: int, end: int) -> tuple[int, int]:
        """Return the first of the tokens that hold the characters from `start` on, and the one after the last."""
        is_behind_mark = any(piece.is_swallowed(start) for piece in self.pieces)
        return self.first_token(start) + is_behind_mark, self.first_token(end - 1, at_end=True) + 1

    def first_token(self, place: int, at_end: bool = False) -> int:
        """Return the token that holds a character; if none does, the next one (or, `at_end`, the one before)."""
        piece = next(piece for piece in reversed(self.pieces) if piece.start <= place)
        if piece.encoding is None:
            return piece.first + self.by_prefix(piece, place - piece.start + at_end) - at_end
        step = -1 if at_end else 1
        at = place - piece.start
        while 0 <= at < len(piece.text):
            token = piece.encoding.char_to_token(len(piece.before) + at)
            if token is not None:
                return piece.first + int(token) - piece.before_ids
            at += step
        return piece.first + (-1 if at_end else len(piece.ids))

    def split_at(self, places: Sequence[int]) -> Encoded:
        """Return the text with no token that spans one of the places."""
        if not any(piece.spans(place) for piece in self.pieces for place in places):
            return self
        parts = []
        for piece in self.pieces:
            edges = [0, *sorted({place - piece.start for place in places if piece.spans(place)}), len(piece.text)]
            parts += [(piece.text[start:end], piece.is_literal) for start, end in itertools.pairwise(edges)]
        split = in_pieces(parts, self.tokenizer)
        # Some tokenizers put a space before every text: then the parts are another text than the whole.
        return split if self.tokenizer.decode(split.ids) == self.tokenizer.decode(self.ids) else self

    def by_prefix(self, piece: Piece, place: int) -> int:
        """Return how many tokens the first `place` characters of a piece are, for tokenizers that do not say it."""
        if place >= len(piece.text):
            return len(piece.ids)
        whole = self.tokenizer(piece.before + piece.text[:place], add_special_tokens=False).input_ids
        before = whole[piece.before_ids :]
        same = zip(before, piece.ids, strict=False)
        return next((i for i, (left, right) in enumerate(same) if left != right), min(len(before), len(piece.ids)))


def encoded(texts: Sequence[str], starts: Sequence[Sequence[int]], tokenizer: Any) -> Iterator[Encoded]:
    """Yield texts as tokens, in order. What stands between guards (see marks.py) becomes ordinary tokens.

    `starts`: where the answers of each text begin. Generation starts from the tokens of what stands before, so no token
    may span that place: such a text is split there.
    """
    plain = [text for text in texts if OPEN not in text]
    batch = tokenizer(plain, add_special_tokens=False, return_attention_mask=False, verbose=False) if plain else None
    encodings = (batch.encodings if batch else None) or [None] * len(plain)
    found = iter(zip(batch.input_ids if batch else [], encodings, strict=True))
    for text, places in zip(texts, starts, strict=True):
        if OPEN in text:
            whole = in_pieces([(part, i % 2 == 1) for i, part in enumerate(GUARDED.split(text))], tokenizer)
            yield whole.split_at([len(without_guards(text[:place])) for place in places])
        else:
            ids, encoding = next(found)
            yield Encoded(ids, [Piece(0, text, 0, ids, encoding)], tokenizer).split_at(places)


def in_pieces(parts: Sequence[tuple[str, bool]], tokenizer: Any) -> Encoded:
    """Return a text in parts as tokens; of those marked so, the model's control marks become ordinary text."""
    ids: list[int] = []
    pieces: list[Piece] = []
    start = 0
    for part, is_literal in parts:
        if part:
            pieces.append(piece_of(part, is_literal, start, len(ids), tokenizer))
            ids += pieces[-1].ids
            start += len(part)
    return Encoded(ids, pieces, tokenizer)


def piece_of(text: str, is_literal: bool, start: int, first: int, tokenizer: Any) -> Piece:
    """Return a part of a text as tokens; behind BEFORE if that makes a difference and its tokens stay apart."""

    def tokens(part: str) -> tuple[list[int], Any]:
        batch = tokenizer(part, add_special_tokens=False, split_special_tokens=is_literal, verbose=False)
        return batch.input_ids, batch.encodings[0] if batch.encodings else None

    ids, encoding = tokens(text)
    if start:
        before, _ = tokens(BEFORE)
        whole, behind = tokens(BEFORE + text)
        number = len(before)
        if whole[:number] == before and whole[number:] != ids:
            return Piece(start, text, first, whole[number:], behind, is_literal, BEFORE, number)
    return Piece(start, text, first, ids, encoding, is_literal)


def check_ids(
    ids: list[int], where: str, tokenizer: Any, embedding_rows: int | None, pictures: frozenset[int] = frozenset()
) -> None:
    """Raise DataError for a token that the model has no embedding for, or that stands for something else than text."""
    if found := pictures.intersection(ids):
        mark = shown(str(tokenizer.convert_ids_to_tokens(min(found))), 40)
        what = f"{mark} stands for a picture, film or sound; only text is trained"
        raise DataError(f"{where}: {what}: remove it, or the row")
    if embedding_rows is not None and ids and max(ids) >= embedding_rows:
        token = max(ids)
        text = shown(repr(tokenizer.convert_ids_to_tokens(token)), 40)
        what = f"token {token} ({text}) is beyond the {embedding_rows} embeddings of the model"
        raise DataError(f"{where}: {what}; take the tokenizer that belongs to the model")


def without_guards(text: str) -> str:
    """Return a text without the guards in it."""
    return re.sub(f"[{OPEN}{CLOSE}]", "", text) if OPEN in text else text
