"""From tokens back to text: the pieces of a sequence, for people who check what is trained."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from sft.run.shown_rows import Kind, Piece

CONTEXT_TOKENS = 8  # decoded with a piece, before it: a token's text may depend on its neighbours on the left


@dataclass
class Decoder:
    """Cuts sequences into pieces, with the tokenizer that made them."""

    tokenizer: Any
    stops: Collection[int]  # tokens at which generation ends; without facts about the template: all special tokens
    controls: set[int] = field(init=False)

    def __post_init__(self) -> None:
        added = self.tokenizer.added_tokens_decoder.items()
        self.controls = {number for number, token in added if str(token).strip()} | set(self.tokenizer.all_special_ids)

    def pieces(self, ids: list[int], is_target: list[bool], with_tokens: bool) -> list[Piece]:
        """Return the pieces of a sequence, in order. `with_tokens`: with the text of every token."""
        kinds = self.kinds(ids, is_target)
        classes = [(kind, token in self.controls) for kind, token in zip(kinds, ids, strict=True)]
        found, start = [], 0
        for (kind, is_control), group in itertools.groupby(classes):
            end = start + len(list(group))
            texts = [self.text(ids, place, place + 1) for place in range(start, end)] if with_tokens else []
            text = self.text(ids, start, end)
            part = ids[start:end]
            found.append(Piece(kind=kind, is_control=is_control, text=text, ids=part, token_texts=texts))
            start = end
        return found

    def kinds(self, ids: Sequence[int], is_target: Sequence[bool]) -> list[Kind]:
        """Return each token's kind: an end is the last one of a run of targets, if generation stops at it."""
        kinds: list[Kind] = []
        for place, target in enumerate(is_target):
            is_last = target and not any(is_target[place + 1 : place + 2])
            kinds.append("end" if is_last and ids[place] in self.stops else "target" if target else "context")
        return kinds

    def text(self, ids: list[int], start: int, end: int) -> str:
        """Return the text of some tokens as it is in the whole: of a single one, many decoders drop a leading space."""
        before = self.decoded(ids[max(0, start - CONTEXT_TOKENS) : start])
        whole = self.decoded(ids[max(0, start - CONTEXT_TOKENS) : end])
        return whole[len(before) :] if whole.startswith(before) else self.decoded(ids[start:end])

    def decoded(self, ids: list[int]) -> str:
        """Return the tokens' text, control tokens included."""
        if not ids:
            return ""
        text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)
