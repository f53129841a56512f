"""The text of a generated answer: all of it, and its words without the reasoning before them."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any


def texts(ids: Sequence[int], tokenizer: Any, reasoning_end: Sequence[str]) -> tuple[str, str]:
    """Return everything that was generated, control marks included, and the words of the answer.

    `ids` are the tokens up to the end mark, without it. The words are what a server sends, which leaves special tokens
    out; if there is reasoning, what follows it. `reasoning_end` has the texts that may stand there.
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
    rest = words[len(tokenizer.decode(reasoning, skip_special_tokens=True)) :]
    return whole, (same_token + rest).lstrip()


def is_cut_in_reasoning(
    whole: str, prompt: str, has_ended: bool, reasoning_start: Sequence[str], reasoning_end: Sequence[str]
) -> bool:
    """Tell whether an answer has not come to its words: `whole` is reasoning that the `prompt` or itself has opened.

    Behind a prompt that opens it, an answer that ends without closing it may be words alone.
    """
    if after_reasoning(whole, reasoning_end):
        return False
    by_prompt = not has_ended and prompt.rstrip().endswith(tuple(reasoning_start))
    return by_prompt or whole.lstrip().startswith(tuple(reasoning_start))


def after_reasoning(text: str, reasoning_end: Sequence[str]) -> int:
    """Return the number of characters in a text up to where its reasoning ends for the last time; 0 if it has none.

    White space around a mark may be another than the template's: a model that was not trained on it writes its own.
    """
    marks = [end.strip() for end in reasoning_end if end.strip()]
    return max((text.rindex(mark) + len(mark) for mark in marks if mark in text), default=0)
