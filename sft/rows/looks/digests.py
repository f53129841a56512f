"""Digests of a row, 8 bytes each, by which rows are compared: a million rows take 40 MB.

Two different texts out of a million rows have the same digest with a probability of 3 in 100 million.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from sft.rows.looks.normal import normal, without_spaces
from sft.rows.looks.said import Said

BYTES = 8  # of each
NONE = bytes(BYTES)
BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")


class Digests(NamedTuple):
    """A row's digests, in the order in which they are kept."""

    row: bytes
    question: bytes
    alike: bytes  # the question's normal form
    answer: bytes  # the answer without case, spaces and some punctuation
    result: bytes  # what the answer says after #### or in \boxed{}; NONE without either


def digests(said: Said) -> Digests:
    """Return the digests of a row. The question of plain text is the text itself."""
    question = said.question or said.answer
    result = result_of(said.answer)
    return Digests(
        row=digest(encoded(f"{question}\0{said.answer}")),
        question=digest(encoded(question)),
        alike=digest(normal(question)),
        answer=digest(without_spaces(said.answer)),
        result=NONE if result is None else digest(result),
    )


def digest(content: bytes) -> bytes:
    """Return the digest of some bytes."""
    return hashlib.blake2b(content, digest_size=BYTES).digest()


def encoded(text: str) -> bytes:
    """Return a text as bytes, also with half of a surrogate pair, which JSON can hold."""
    return text.encode("utf-8", "surrogatepass")


def result_of(answer: str) -> bytes | None:
    """Return the result that an answer ends with, after #### or in \\boxed{}, so that equal numbers are equal bytes."""
    if "####" in answer:
        found = answer.rpartition("####")[2]
    elif "\\boxed" in answer and (boxes := BOXED.findall(answer)):
        found = boxes[-1]
    else:
        return None
    plain = found.strip().rstrip(".").replace(",", "").replace("$", "").replace(" ", "")
    try:
        return repr(float(plain)).encode()
    except ValueError:
        return normal(found)
