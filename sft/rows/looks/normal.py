"""The normal form of a text: two texts with the same one say the same, apart from how they are written.

Case, white space and Unicode's compatible characters (NFKC) are made the same, and so are quotes and dashes. Of
punctuation only the marks of a sentence are left out: `,` `;` `:` `?` and double quotes, `.` at the end of a word, and
`!` behind two letters. So -1.5 is not 15, x[1] is not x1, and 5! is not 5.
"""

from __future__ import annotations

import re
import unicodedata

SPACES = {ord(mark): " " for mark in ',;:?"'}
SAME = (
    {ord(mark): "'" for mark in "‘’‛`´"}
    | {ord(mark): "-" for mark in "‐‑‒–—−"}
    | {ord(mark): " " for mark in "“”„«»¿¡、"}
    | {ord("。"): ". "}
)
EXCLAMATION = re.compile(r"(?<=[^\W\d_]{2})!+")
# NFKC makes 52 of 5²: what is raised or lowered is kept apart.
RAISED = re.compile("[\xaa\xb2\xb3\xb9\xba\u02b0-\u02b8\u1d2c-\u1d6a\u2070-\u209c]")


def normal(text: str) -> str:
    """Return the normal form; of a text without any word, the text itself."""
    found = text.casefold()
    if not found.isascii():
        found = unicodedata.normalize("NFKC", RAISED.sub(lambda match: f"^{match[0]}", found)).translate(SAME)
    if "!" in found:
        found = EXCLAMATION.sub("", found)
    found = " ".join(found.translate(SPACES).split()) + " "
    return found.replace("... ", " ").replace(". ", " ").strip() or text
