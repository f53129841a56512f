"""Where the answer is in a text (behind `####`, in `\\boxed{}`, all of it), and the form of an evaluation's answers.

EVAL_ANSWER=auto looks at all references before the first one is compared. So the same form holds for every row, unless
the references differ: then each row has the form of its own reference, and a line says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sft.run.records import AnswerForm
from sft.settings.kinds import AskedForm
from sft.trainer.evaluation.choices import read_choice
from sft.trainer.evaluation.quantities import Quantity
from sft.trainer.evaluation.values import is_term, read_value

# said: behind "the answer is"; last: the last number or choice that the text names
Place = Literal["mark", "box", "said", "whole", "last"]

MARK = re.compile("(?<!#)####(?!#)")
SAID = re.compile(r"\banswer(?:[ ]is\b[ ]?:?|[ ]?:)\**[ ]*(?=(.{1,200}))", re.IGNORECASE)
BOX = re.compile(r"\\f?boxed(?![a-zA-Z])\s*")
MOST_UNIT_WORDS = 3  # `5 red apples` is a number, `5 apples are left for the others` is a sentence
IN_WORDS: dict[AnswerForm, str] = {
    "number": 'numbers: what follows #### or "the answer is", as the reference has it, or the whole answer',
    "boxed": r"what is in the last \boxed{}",
    "choice": "choices: a letter, yes or no",
    "text": "whole texts",
    "mixed": "each row by the form of its own reference",
}


@dataclass(frozen=True)
class Part:
    """The part of a text that is the answer."""

    text: str
    place: Place = "whole"
    is_last: bool = True  # nothing but white space follows


def marked(text: str) -> list[Part]:
    """Return what follows each `####`: the rest of its line, or the next line if that is empty."""
    found = []
    for mark in MARK.finditer(text):
        rest = text[mark.end() :].lstrip()
        line, _, after = rest.partition("\n")
        line, *others = MARK.split(line)
        line = line.strip()
        if line.count("**") % 2:  # `**#### 5**`
            line = line.removesuffix("**")
        found.append(Part(line, "mark", not (after.strip() or others)))
    return [part for part in found if part.text]


def boxed(text: str) -> Part | None:
    """Return what is in the last `\\boxed{}` of a text, or None."""
    boxes = list(BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    if text[start : start + 1] != "{":
        word = text[start:].split("$")[0].split()
        return Part(word[0], "box") if word else None
    depth = 0
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0) * (text[end - 1] != "\\")
        if not depth:
            return Part(text[start + 1 : end].strip(), "box", not text[end + 1 :].strip(" \n$.*"))
    return None


def said(text: str) -> Part | None:
    """Return the value or choice of which a text says first that it is the answer: `The answer is: 5`; or None."""
    for found in SAID.finditer(text):
        sentence = re.split(r"[.!?。](?=\s|$)", found[1])[0]
        for answer in (found[1], sentence):
            if read_short_value(answer) or read_choice(answer):
                return Part(answer.strip(), "said", not text[found.start(1) + len(answer) :].strip(" \n.*$"))
    return None


def reference_said(reference: str) -> Part | None:
    """Return the answer that a reference says at its end, or None."""
    lines = reference.strip().splitlines()
    part = said(lines[-1]) if lines else None
    return part if part and part.is_last else None


def reference_mark(reference: str) -> Part | None:
    """Return what follows the last `####` of a reference, or None if that is a heading of Markdown.

    A heading has a text behind it, and more lines follow.
    """
    parts = marked(reference)
    if not parts:
        return None
    last = parts[-1]
    value = read_value(last.text)
    is_bare = bool(value) and not (isinstance(value, Quantity) and any(word.isalpha() for word in value.unit))
    choice = read_choice(last.text)
    return last if last.is_last or is_bare or (choice and not choice.text) else None


def read_short_value(text: str) -> bool:
    """Tell whether a whole text is a number, date or time, with no more than a few words behind it."""
    value = read_value(text)
    return bool(value) and not (isinstance(value, Quantity) and len(value.unit) > MOST_UNIT_WORDS)


def is_short(text: str) -> bool:
    """Tell whether a whole text is an answer without any words of explanation."""
    return bool(read_value(text) or read_choice(text)) or is_term(text)


def form_of(reference: str) -> AnswerForm:
    """Return the form of one reference."""
    if part := reference_mark(reference):
        return "choice" if read_choice(part.text) else "number"
    if boxed(reference):
        return "boxed"
    if read_short_value(reference) or is_term(reference):
        return "number"
    if read_choice(reference):
        return "choice"
    if part := reference_said(reference):
        return "choice" if read_choice(part.text) else "number"
    return "text"


@dataclass(frozen=True)
class Decided:
    """The form of the answers of one evaluation."""

    form: AnswerForm
    line: str  # says it, and why


def decide(references: Sequence[str], asked: AskedForm = "auto") -> Decided:
    """Return the form in which all answers of an evaluation are compared."""
    if asked != "auto":
        return Decided(asked, f"answers are compared as {IN_WORDS[asked]} (EVAL_ANSWER={asked})")
    forms = Counter(form_of(reference) for reference in references)
    are_marked = all(reference_mark(reference) for reference in references)
    if not forms:
        return Decided("text", "no answers are compared: there are no held-out rows")
    if len(forms) == 1 or (are_marked and "boxed" not in forms):
        form: AnswerForm = next(iter(forms)) if len(forms) == 1 else "number"
        why = f"the form of all {len(references):,} references"
        if are_marked:
            why = f"all {len(references):,} references have ####"
        return Decided(form, f"answers are compared as {IN_WORDS[form]} (EVAL_ANSWER=auto: {why})")
    counts = ", ".join(f"{number:,} {form}" for form, number in forms.most_common())
    return Decided("mixed", f"answers are compared {IN_WORDS['mixed']} (EVAL_ANSWER=auto: {counts})")
