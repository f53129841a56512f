"""The text of a generated answer: all of it, and its words without the reasoning before them."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Any


def texts(ids: Sequence[int], tokenizer: Any, reasoning_end: Sequence[str]) -> tuple[str, str]:
    """Return everything that was generated, control marks included, and the words of the answer.

    `ids` are the tokens up to the end mark, without it. The words are what a server sends, which leaves special tokens
    out, from the end of the reasoning on. `reasoning_end` has the texts that may stand there.
    """
    whole = tokenizer.decode(ids)
    words = tokenizer.decode(ids, skip_special_tokens=True)
    start = after_reasoning(whole, reasoning_end)
    if not start:
        return whole, words
    # The tokens that hold the reasoning. The texts of both kinds are cut there: a part of the tokens alone may decode
    # to another text, as some tokenizers leave out a space at the beginning.
    tokens = bisect.bisect_left(range(len(ids)), start, key=lambda number: len(tokenizer.decode(ids[:number])))
    reasoning = ids[:tokens]
    same_token = tokenizer.decode(reasoning)[start:]  # words in the token in which the reasoning ends
    return whole, same_token + words[len(tokenizer.decode(reasoning, skip_special_tokens=True)) :]


def after_reasoning(text: str, reasoning_end: Sequence[str]) -> int:
    """Return the number of characters in a text up to where its reasoning ends for the last time; 0 if it has none.

    White space around the mark may be another than the template's: a model that was not trained on it writes its own.
    """
    found = 0
    for end in reasoning_end:
        mark = end.strip()
        if mark and mark in text:
            at = text.rindex(mark) + len(mark)
            space = end[end.index(mark) + len(mark) :]
            same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(text[at:], space, strict=False))
            found = max(found, at + len(list(same)))
    return found
