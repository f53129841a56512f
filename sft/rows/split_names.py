"""The names of splits, by the rules of Hugging Face's `datasets` (its module data_files).

A split is named by a word, alone or between separators or digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sft.errors import SettingsError, wrong

WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SEPARATOR = "[-._ 0-9]"
PATTERNS = {
    split: re.compile(rf"(^|{SEPARATOR})({'|'.join(words)})({SEPARATOR}|$)", re.IGNORECASE)
    for split, words in WORDS.items()
}


def split_for(purposes: list[str], splits: Iterable[str], dataset: object) -> str | None:
    """Return the first split of a purpose: by its own name, as NAME_sft, or the only one whose name has the word.

    Raises SettingsError if there are several for training.
    """
    for purpose in purposes:
        exact = [word for word in WORDS[purpose] if word in splits]
        exact += [f"{word}_sft" for word in WORDS[purpose] if f"{word}_sft" in splits]
        others = [split for split in splits if PATTERNS[purpose].search(split)]
        if exact:
            return exact[0]
        if len(others) == 1 or (others and purpose != "train"):
            return others[0]
        if others:
            what = f"has several splits for training: {', '.join(others)}"
            remedy = f"choose with TRAIN_SPLIT={others[0]}, or join several with +"
            raise SettingsError([wrong("DATASET", dataset, what, remedy)])
    return None


def is_held_out(split: str) -> bool:
    """Return whether the name of a split says that it is for evaluation."""
    return any(PATTERNS[name].search(split) for name in ("validation", "test"))
