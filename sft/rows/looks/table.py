"""Every look: its name in records, and its words for people. The order is that of `inv rows --check`."""

from __future__ import annotations

from typing import Literal, NamedTuple

Group = Literal["leaked", "repeated", "odd"]


class Look(NamedTuple):
    """A look."""

    name: str  # in records
    group: Group
    short: str  # behind a number of rows, as in "3 cut short"
    title: str
    advice: str


LOOKS = (
    Look(
        "leaked", "leaked", "word for word",
        "held-out rows that are in training too, word for word",
        "Their score shows what the model remembers, not what it can do. Remove them from the training rows; if both "
        "were drawn from the same rows, remove the repeated ones.",
    ),
    Look(
        "leaked_question", "leaked", "with another answer",
        "held-out rows whose question is in training too, with another answer",
        "Their score is higher than for new questions. Remove them from the training rows.",
    ),
    Look(
        "leaked_alike", "leaked", "nearly",
        "held-out rows whose question is in training too, apart from case, spaces and punctuation",
        "Their score is higher than for new questions. Remove them from the training rows.",
    ),
    Look(
        "repeated", "repeated", "repeated",
        "training rows that repeat an earlier one, word for word",
        "Each copy counts again in every epoch. If that is not on purpose, remove them.",
    ),
    Look(
        "repeated_alike", "repeated", "nearly repeated",
        "training rows that repeat an earlier one, apart from case, spaces and punctuation",
        "Each copy counts again in every epoch. If that is not on purpose, remove them.",
    ),
    Look(
        "contradiction", "repeated", "contradicting an earlier one",
        "training rows with the same question and another result, after #### or in \\boxed{}",
        "At most one of the results is right.",
    ),
    Look(
        "several_answers", "repeated", "with another answer to an earlier question",
        "training rows with the same question and another answer",
        "This is usual for sets with several solutions to each question, and a mistake where one answer is right.",
    ),
    Look(
        "cut_short", "odd", "cut short",
        "answers that end in the middle, as with a comma, with `the`, or in open code or reasoning",
        "The model learns to stop there. They are often cut by a limit on tokens when they were generated.",
    ),
    Look(
        "loop", "odd", "ending in a loop",
        "answers that end in the same words again and again",
        "The model learns to do the same.",
    ),
    Look(
        "marks", "odd", "with marks of another chat template",
        "rows whose text holds the marks of a chat template, not of this model",
        "The template is applied to the text again. Take the plain messages instead.",
    ),
    Look(
        "mojibake", "odd", "with broken characters",
        "rows with characters such as Ã© for é: UTF-8 that was read in another encoding",
        "Read the source as UTF-8, or repair the text with the package ftfy.",
    ),
    Look(
        "replacement", "odd", "with U+FFFD",
        "rows with U+FFFD, which stands where a character could not be read",
        "Read the source in its own encoding, or remove the rows.",
    ),
    Look(
        "control", "odd", "with control characters",
        "rows with null bytes or other control characters",
        "Remove the characters.",
    ),
    Look(
        "entities", "odd", "with HTML entities",
        "rows with HTML entities such as &quot; and &#39; in text that is not HTML",
        "Convert them, in Python with html.unescape.",
    ),
    Look(
        "placeholder", "odd", "with a placeholder for text",
        "rows with nan, null, undefined or the like in place of a text",
        "The text was missing where the file was written. Remove the rows.",
    ),
    Look(
        "escaped", "odd", r"with \n in place of line breaks",
        r"answers with \n, a backslash and an n, where line breaks should be",
        "The text was escaped twice. Read it as JSON once more, or replace the two characters.",
    ),
    Look(
        "echo", "odd", "with the prompt as answer",
        "rows whose answer is their prompt",
        "Check the columns, or remove the rows.",
    ),
    Look(
        "empty_prompt", "odd", "with an empty prompt",
        "rows with nothing but white space before an answer",
        "Remove the rows, or train on them as plain text.",
    ),
    Look(
        "wordless", "odd", "with punctuation as answer",
        "rows whose answer is punctuation alone",
        "Remove the rows.",
    ),
    Look(
        "short", "odd", "with one character as answer",
        "rows whose answer is one character, where half of all answers have twenty or more",
        "Check them.",
    ),
    Look(
        "long", "odd", "far longer than the others",
        "rows a hundred times as long as half of the others, and over 20,000 characters",
        "Often a quote that was never closed, and many rows read as one.",
    ),
)  # fmt: skip
BY_NAME = {look.name: look for look in LOOKS}
ORDER = {look.name: place for place, look in enumerate(LOOKS)}
