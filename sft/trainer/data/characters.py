"""Characters of rows that a tokenizer loses: it has no token for them, or makes other characters of them.

Byte-level tokenizers and those that fall back to bytes keep all. Others write their unknown token, which is then
trained in place of the character, or nothing; some know no line breaks or no capitals.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal

Fate = Literal["kept", "unknown", "changed"]

CONTEXT = "a"  # on both sides of a character that is tried: some tokenizers strip what is at the ends of a text
COUNTED_SPACES = "\n\t"  # others may become plain spaces: nobody sees it


class Characters:
    """The characters that a tokenizer keeps, each tried once. `ends`: tokens that end texts and answers."""

    def __init__(self, tokenizer: Any, ends: Collection[int]) -> None:
        self.tokenizer = tokenizer
        unknown = tokenizer.unk_token_id
        # GPT-2 calls its EOS the unknown token, though it has a token for everything.
        self.unknown = None if unknown in {tokenizer.bos_token_id, tokenizer.eos_token_id, *ends} else unknown
        self.fates: dict[str, Fate] = {}
        self.kept: set[str] = set()
        # Tokenizers of whole words know none by itself.
        self.tells = any(self.fate(character) == "kept" for character in string.ascii_lowercase)

    def lost(self, texts: Iterable[str], written: str, ids: Sequence[int]) -> tuple[str, ...]:
        """Return the characters of a row's texts that are lost, in order.

        If they do not explain an unknown token, that one is among them. `written`, with the texts in it, became `ids`.
        """
        has_unknown = self.unknown is not None and ids.count(self.unknown) > written.count(self.tokenizer.unk_token)
        found: set[str] = set()
        if self.tells:
            others = set().union(*texts) - self.kept
            found = {character for character in others if self.is_lost(character, has_unknown)}
        if has_unknown and not any(self.fates[character] == "unknown" for character in found):
            found.add(self.tokenizer.unk_token)
        return tuple(sorted(found))

    def is_lost(self, character: str, has_unknown: bool) -> bool:
        """Tell whether a character is lost in a text, whose tokens have an unknown one or not."""
        if character not in self.fates:
            self.fates[character] = fate = self.fate(character)
            if fate == "kept":
                self.kept.add(character)
        return self.fates[character] == "changed" or (has_unknown and self.fates[character] == "unknown")

    def fate(self, character: str) -> Fate:
        """Return what becomes of a character."""
        if unicodedata.category(character)[0] in "CZ" and character not in COUNTED_SPACES:
            return "kept"
        text = CONTEXT + character + CONTEXT
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        if self.unknown is not None and self.unknown in ids:
            return "unknown"
        found = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if character in COUNTED_SPACES:
            return "kept" if character in found else "changed"
        return "kept" if usual(found) == usual(text) else "changed"


def usual(text: str) -> str:
    """Return a text without spaces, which decoding may add, and with the usual form of each character."""
    return "".join(unicodedata.normalize("NFKC", text).split())
