"""The normal form of a text: two texts with the same one say the same, apart from how they are written.

Case, white space and Unicode's compatible characters (NFKC) are made the same, and so are quotes and dashes. Of
punctuation only the marks of a sentence are left out: `,` `;` `:` `?` and double quotes, `.` at the end of a word, and
`!` behind two letters. So -1.5 is not 15, x[1] is not x1, and 5! is not 5.
"""

from __future__ import annotations

import re
import unicodedata

CAPITALS = bytes(range(ord("A"), ord("Z") + 1))
SPACES = b',;:?"\n\r\t\x0b\x0c'
PLAIN = bytes.maketrans(CAPITALS + SPACES, CAPITALS.lower() + b" " * len(SPACES))
SAME = dict.fromkeys("‘’‛`´", "'") | dict.fromkeys("‐‑‒–—−", "-") | dict.fromkeys("“”„«»¿¡、\u2028\u2029", " ")
SAME["。"] = ". "
ODD = re.compile(f"[{''.join(SAME)}]")
EXCLAMATION = re.compile(r"(?<=[^\W\d_]{2})!+")
# NFKC makes 52 of 5²: what is raised or lowered is kept apart.
RAISED = re.compile("[\xaa\xb2\xb3\xb9\xba\u02b0-\u02b8\u1d2c-\u1d6a\u2070-\u209c]")


def normal(text: str) -> bytes:
    """Return the normal form, in UTF-8; of a text without any word, the text itself.

    Bytes, and no list of words: of all looks this one takes the most time.
    """
    found = as_usual(text)
    if "!" in found:
        found = EXCLAMATION.sub("", found)
    words = found.encode("utf-8", "surrogatepass").translate(PLAIN) + b" "
    words = words.replace(b"... ", b" ").replace(b". ", b" ")
    while b"  " in words:
        words = words.replace(b"  ", b" ")
    return words.strip() or text.encode("utf-8", "surrogatepass")


def without_spaces(text: str) -> bytes:
    """Return what tells two answers to one question apart, fast: no spaces, no marks at the end."""
    return as_usual(text).encode("utf-8", "surrogatepass").translate(PLAIN, SPACES + b" ").rstrip(b".!")


def as_usual(text: str) -> str:
    """Return a text with the usual form of each character; ASCII is left as it is."""
    if text.isascii():
        return text
    found = unicodedata.normalize("NFKC", RAISED.sub(r"^\g<0>", text.casefold()))
    return ODD.sub(lambda match: SAME[match[0]], found)
