"""The text of rows as it can be shown: nothing in it can steer a terminal, hide, or turn the direction of writing."""

from __future__ import annotations

import unicodedata

STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode's categories of control and format characters, and of line ends
JOINERS = "\u200c\u200d"  # format characters that words of some languages and many emoji consist of


def visible(text: str, kept: str = "\n") -> str:
    """Return a text with every character that steers written as an escape such as \\x1b, apart from those `kept`."""
    if text.isprintable():
        return text
    return "".join(character if is_harmless(character, kept) else escape(character) for character in text)


def is_harmless(character: str, kept: str) -> bool:
    """Tell whether a terminal or a browser only draws this character."""
    return character in kept or character in JOINERS or unicodedata.category(character) not in STEERING


def escape(character: str) -> str:
    """Return a character as Python's escape."""
    return character.encode("unicode_escape").decode("ascii")
