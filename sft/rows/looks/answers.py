"""Looks at an answer: what it says, and how it ends."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sft.rows.looks.said import Turn

# What programs write where there is no text. `None`, `N/A` and `NaN` are not here: they are answers to real questions.
PLACEHOLDERS = frozenset(
    [
        *["nan", "null", "undefined", "[object Object]", "<noinput>", "<nooutput>"],
        *["#N/A", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!"],  # a spreadsheet's
    ]
)
# Not brackets, signs and emoji: those may be answers. The last ones are not seen.
PUNCTUATION = (
    ".,;:?!-_*'\"… \t\r\n\u200b\u200c\u200d\u2060\ufeff"  # not brackets, signs and emoji: those may be answers
)
EXCEL_CHARACTERS = 32_767  # of a cell: longer texts are cut
FEW_WORDS = 8  # an answer of fewer is never cut short: `of` may be the missing word
# Words in the middle of a sentence. Not `to`, `in`, `with` and `is`, which end sentences too, nor `a`, a choice.
HANGING = frozenset("the an and of or because which whose your their its our my into than".split())
# `\n` before a line that begins as lines of text do, or before another one; not `\nabla` or `C:\new`.
ESCAPED = re.compile(r"(?<![\\\s])\\n(?=\\n|[A-Z0-9*#•-])|(?<=\\n)\\n")
QUOTES = re.compile("[\"`]|'[^']*\\\\n")
LOOP_CHARACTERS = 200  # at least, and
LOOP_TIMES = 8
LOOP_SUFFIX = 40  # characters at the end that are looked for further up


def answers(turn: Turn) -> Iterator[str]:
    """Yield what is odd about an answer."""
    answer = turn.answer.strip()
    if is_cut_short(answer):
        yield "cut_short"
    if is_loop(answer):
        yield "loop"
    if not answer.strip(PUNCTUATION):
        yield "wordless"
    if answer in PLACEHOLDERS:
        yield "placeholder"
    if is_escaped(answer):
        yield "escaped"
    if turn.prompt is None:
        return
    prompt = turn.prompt.strip()
    if prompt.rpartition("\n")[2] in PLACEHOLDERS:  # of an alpaca row, the input is the last line
        yield "placeholder"
    if not prompt:
        yield "empty_prompt"
    elif answer == prompt:
        yield "echo"


def is_cut_short(answer: str) -> bool:
    """Tell whether an answer ends in the middle. A missing full stop says nothing: many answers have none."""
    if answer.count("```") % 2 or len(answer) == EXCEL_CHARACTERS:
        return True
    if answer.startswith("<think>") and "</think>" not in answer:
        return True
    end = answer[-1:]
    if not (end in ",:([{" or end.islower()) or len(answer.split(None, FEW_WORDS - 1)) < FEW_WORDS:
        return False
    *_, line = answer.rsplit("\n", 1)
    words = line.split()
    if end.islower():
        return words[-1] in HANGING
    # A short line with a comma is a greeting at the end of a letter, and with a colon a heading or code.
    return end in "([{" or len(words) > 3


def is_escaped(answer: str) -> bool:
    r"""Tell whether line breaks are written as `\n`, two characters. Code, paths and LaTeX have those too.

    >>> is_escaped(r"Here are two:\n\n1. Apple\n2. Pear"), is_escaped(r"Write print('a\nb')."), is_escaped(r"\nabla")
    (True, False, False)
    """
    if "\\n" not in answer or "\n" in answer or QUOTES.search(answer):
        return False
    return len(ESCAPED.findall(answer)) > 1


def is_loop(text: str) -> bool:
    """Tell whether a text ends in the same words again and again. Letters only: tables of numbers repeat themselves."""
    if len(text) < LOOP_CHARACTERS:
        return False
    place = text.rfind(text[-LOOP_SUFFIX:], 0, -1)
    if place < 0:
        return False
    period = len(text) - LOOP_SUFFIX - place
    span = max(LOOP_TIMES * period, LOOP_CHARACTERS)
    if span > len(text) or text[-span:-period] != text[-span + period :]:
        return False
    return any(map(str.isalpha, text[-period:]))
