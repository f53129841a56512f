"""Answers that choose: a letter, as in `B`, `(B)`, `B) Paris` or `The answer is B`, or yes, no, true, false."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sft.trainer.evaluation.spelling import key, plain

LEAD = r"(?:(?:so|thus|therefore|hence),?\s+)?(?:(?:the|my)\s+)?(?:(?:final|correct|right|best)\s+)?"
LEAD += r"(?:answer|option|choice)(?:\s+is|\s*:|\s+would\s+be)?:?\s*(?:(?:option|choice)\s+)?"
WORDS = "yes|no|true|false"
WORD = re.compile(rf"(?:{LEAD})?({WORDS})[.!]?", re.IGNORECASE)
LETTER = re.compile(rf"(?:{LEAD})?(?:([A-Ja-j])|\(([A-Ja-j])\)|\[([A-Ja-j])\])", re.IGNORECASE)
LETTER_WITH_TEXT = re.compile(rf"(?:{LEAD})?(?:\(([A-J])\)[.:]?|\[([A-J])\][.:]?|([A-J])[).:])\s+(\S.*)", re.DOTALL)
LETTER_MARKED = re.compile(rf"(?:{LEAD})?([A-Ja-j])[).:]", re.IGNORECASE)
MANY = re.compile(r"[(\[]?[A-J][)\]]?(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+|\s*&\s*)[(\[]?[A-J](?![A-Za-z])[)\]]?)+")

# In a text: what it says is the answer; otherwise the last choice in it. `A` before a small letter is an article.
SAID_LETTER = re.compile(rf"\b{LEAD}[\"'*(\[]*([A-J])(?![A-Za-z'])", re.IGNORECASE)
ANY_LETTER = re.compile(r"\(([A-Ja-j])\)|(?<![A-Za-z'])([B-HJ]|A(?!\s+[a-z]))(?![A-Za-z'])")
SAID_WORD = re.compile(rf"\b{LEAD}[\"'*]*({WORDS})\b", re.IGNORECASE)
ANY_WORD = re.compile(rf"(?<![A-Za-z])({WORDS})(?![A-Za-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """A letter, several (`A,C`), or a word; with the text of the letter, if it is given."""

    chosen: str
    text: str = ""

    def agrees(self, other: object) -> bool:
        """Whether both choose the same. The text counts if both have one."""
        return isinstance(other, Choice) and self.chosen == other.chosen and len({self.text, other.text} - {""}) < 2


def read_choice(text: str) -> Choice | None:
    """Return the choice that a text is as a whole, or None."""
    text = plain(text)
    if found := WORD.fullmatch(text):
        return Choice(found[1].lower())
    if found := LETTER.fullmatch(text) or LETTER_MARKED.fullmatch(text):
        return Choice(next(filter(None, found.groups())).upper())
    if MANY.fullmatch(text):  # `(A) and (C)` is not `(A)` with a text
        return Choice(letters_of(text))
    if found := LETTER_WITH_TEXT.fullmatch(text):
        return Choice((found[1] or found[2] or found[3]).upper(), key(found[4]))
    return None


def letters_of(text: str) -> str:
    """Return the letters of a choice of several, in one order."""
    return ",".join(sorted(set(re.findall(r"\b[A-J]\b", text))))


def last_choice(text: str, like: Choice) -> str | None:
    """Return the choice that a text makes somewhere, or None. `like`: whether it is a letter or one of the words."""
    text = plain(text)
    if "," in like.chosen:
        chosen = [letters_of(found[0]) for found in MANY.finditer(text)]
        return chosen[-1] if chosen else None
    if like.chosen.lower() in WORDS.split("|"):
        if said := SAID_WORD.findall(text):
            return said[-1].lower()
        words = ANY_WORD.findall(text)
        if not words:
            return None
        return (words[0] if text.lower().startswith(words[0].lower()) else words[-1]).lower()
    if said := SAID_LETTER.findall(text):
        return said[-1].upper()
    letters = [bracketed or alone for bracketed, alone in ANY_LETTER.findall(text)]
    return letters[-1].upper() if letters else None


def said_choice(text: str) -> str | None:
    """Return the choice of which a text says that it is the answer, or None."""
    text = plain(text)
    said = [*SAID_LETTER.finditer(text), *SAID_WORD.finditer(text)]
    return max(said, key=lambda found: found.start())[1] if said else None
