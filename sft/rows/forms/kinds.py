"""Columns that say that a row must not be trained as it is. They are refused until COLUMNS says what to do with them.

Preferences, votes and pictures as TRL, LLaMA-Factory, ms-swift and OpenAI name them; NeMo's mask:
https://huggingface.co/docs/trl/dataset_formats
https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md
https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html
https://platform.openai.com/docs/guides/direct-preference-optimization
https://docs.nvidia.com/nemo-framework/user-guide/latest/modelalignment/sft.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache

from sft.errors import DataError, shown
from sft.rows.forms import sharegpt
from sft.rows.forms.columns import Columns, is_or_are, quoted, says_something, without

PREFERENCES = frozenset(
    {
        "chosen", "rejected", "chosen_response", "rejected_response", "chosen_messages", "rejected_messages",
        "preferred_output", "non_preferred_output", "response_chosen", "response_rejected", "conversation_a",
        "conversation_b", "response_a", "response_b", "answer_a", "answer_b",
    }
)  # fmt: skip
BADLY = ("rejected", "non_preferred", "response_rejected")
EITHER = ("_a", "_b")  # of two answers, of which another column says which is better
VOTES = frozenset({"label", "labels", "kto_label", "kto_tag", "vote", "thumbs_up"})
VERDICTS = frozenset({"correct", "is_correct", "accepted", "is_accepted"})  # only a bad one is refused
PICTURES = frozenset(
    {
        "image", "images", "image_path", "image_paths", "image_url", "image_urls", "picture", "pictures",
        "pixel_values", "audio", "audios", "video", "videos",
    }
)  # fmt: skip
# Parts of a question without which it cannot be answered.
CHOICES = frozenset({"choices", "options"})
# One choice in each of several columns: `A`, `B`; `option_a`, `option_b`; `opa`, `opb`; `ending0`, `ending1`.
CHOICE = re.compile(r"(?:(?:option|opt|op|choice|ending)[ _-]?)?[a-f]|(?:option|choice|ending)[ _-]?\d")
# NeMo's: whose turns are not trained.
MASK = "mask"
# Of a whole row: whether it is trained. A list says it of each of its messages.
TRAINED = frozenset({"weight", "train", "training", "trainable", "loss", "loss_mask"})
GOOD, BAD = ("true", "good", "yes", "1"), ("false", "bad", "no", "0", "-1")


def problem(columns: Columns) -> DataError | None:
    """Return what is wrong with a row that has a column of one of these kinds, unless the settings say what to do."""
    of_kinds = of_a_kind(tuple(columns.row))
    if not of_kinds:
        return None
    names = {column: name for column, name in of_kinds.items() if column not in columns.named}
    for find in (of_preference, of_vote, of_pictures, of_choices, of_mask, of_weight):
        if what := find(columns, names):
            return DataError(f"{columns.where}: {what}")
    return None


@lru_cache
def of_a_kind(names: tuple[str, ...]) -> Mapping[str, str]:
    """Return the columns of these kinds, with their names in small letters."""
    kinds = PREFERENCES | VOTES | VERDICTS | PICTURES | CHOICES | TRAINED | {MASK}
    small = {column: column.strip().lower() for column in names}
    choices = {column for column, name in small.items() if CHOICE.fullmatch(name)}
    return {column: name for column, name in small.items() if name in kinds or (len(choices) > 1 and column in choices)}


def of_preference(columns: Columns, names: Mapping[str, str]) -> str:
    """Return what is wrong with a good and a bad answer, unless the settings say which answer is trained."""
    found = [column for column, name in names.items() if name in PREFERENCES and says_something(columns.row[column])]
    if not found or {"response", "messages"} & set(columns.named.values()):
        return ""
    what = f"{quoted(found, ' and ')} {is_or_are(found)} a preference, and only good answers are trained"
    if all(names[column].endswith(EITHER) for column in found):
        return f"{what}; write a row with the better one"
    good = next((column for column in found if not names[column].startswith(BADLY)), None)
    if good is None:
        return f"{what}; leave out what is not: {without(found[0])}"
    return f"{what}; name the good one: COLUMNS={json.dumps(roles_of(good, columns))}"


def roles_of(good: str, columns: Columns) -> dict[str, str]:
    """Return the roles under which the good answer of a preference is trained."""
    value, prompts = columns.row[good], columns.all_of("messages")
    if isinstance(value, list) and any(is_users(entry) for entry in value):
        return {good: "messages"}
    inside = columns.row.get("input")  # OpenAI's {"input": {"messages": […]}}
    if isinstance(inside, dict) and "messages" in inside:
        prompts = ["input.messages"]
    return {**dict.fromkeys(prompts[:1], "prompt"), good: "response"}


def is_users(entry: object) -> bool:
    """Return whether an entry of a list is a message of the user."""
    role = (entry.get("role") or entry.get("from")) if isinstance(entry, dict) else None
    return isinstance(role, str) and sharegpt.ROLES.get(role.lower(), role.lower()) == "user"


def of_vote(columns: Columns, names: Mapping[str, str]) -> str:
    """Return what is wrong with a vote on the answer."""
    for column, name in names.items():
        verdict = verdict_of(columns.row[column]) if name in VOTES or name in VERDICTS else None
        if verdict is False or (verdict and name in VOTES):
            what = f"{quoted([column])} says whether the answer is good, and every answer is trained as a good one"
            return f"{what}; remove the rows with bad answers, then set {without(column)}"
    return ""


def of_pictures(columns: Columns, names: Mapping[str, str]) -> str:
    """Return what is wrong with pictures, sound and films."""
    pictures = [column for column, name in names.items() if name in PICTURES and says_something(columns.row[column])]
    if not pictures:
        return ""
    what = f"{quoted(pictures)} {is_or_are(pictures)} not text, and only text is trained"
    return f"{what}; remove the row, or leave the column out: {without(pictures[0])}"


def of_choices(columns: Columns, names: Mapping[str, str]) -> str:
    """Return what is wrong with choices that the prompt does not list."""
    prompts = " ".join(str(columns.row[name]) for name in columns.all_of("prompt", "input"))
    if not prompts or not columns.filled.get("response"):
        return ""
    found = [
        column
        for column, name in names.items()
        if (name in CHOICES or CHOICE.fullmatch(name))
        and any(text not in prompts for text in texts_in(columns.row[column]))
    ]
    if not found:
        return ""
    belong, it = ("belongs", "it") if len(found) == 1 else ("belong", "them")
    what = f"{quoted(found)} {belong} to the question, which does not have {it}"
    remedy = f"COLUMNS={json.dumps(dict.fromkeys(found, 'unused'))}"
    return f"{what}; write {it} into the question, or leave {it} out: {remedy}"


def texts_in(value: object) -> list[str]:
    """Return the texts and numbers in a value that are not empty."""
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return [text] if (text := str(value).strip()) else []
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for inner in inside for text in texts_in(inner)]


def of_mask(columns: Columns, names: Mapping[str, str]) -> str:
    """Return what is wrong with a mask that is not on the user's turns."""
    for column in names:
        value = columns.row[column]
        if names[column] == MASK and says_something(value) and not is_users({"role": value}):
            what = f"{quoted([column])} says whose turns are not trained, and only the assistant's ever are"
            return f"{what}; write User, or leave it out: {without(column)}"
    return ""


def of_weight(columns: Columns, names: Mapping[str, str]) -> str:
    """Return what is wrong with a row, or an answer in it, that is not to be trained."""
    for column, name in names.items():
        value = columns.row[column]
        if name not in TRAINED or verdict_of(value) is not False:
            continue
        if isinstance(value, list):
            what = f'{quoted([column])} says which messages are trained; write "weight": 0 into those that are not'
            return f"{what}, and leave the column out: {without(column)}"
        what = f"{quoted([column])} is {shown(repr(value))}, which says that the row is not to be trained"
        return f"{what}; remove the row, or leave the column out: {without(column)}"
    return ""


def verdict_of(value: object) -> bool | None:
    """Return whether a value calls an answer good; None for one that is no verdict, such as the name of a class.

    A list has a verdict for each step of the answer.
    """
    if isinstance(value, list):
        verdicts = [verdict_of(item) for item in value if isinstance(item, (bool, int, float, str))]
        return None if None in verdicts or not verdicts else all(verdicts)
    if isinstance(value, (bool, int, float)):
        return None if value not in (0, 1, -1) else value == 1
    if isinstance(value, str):
        text = value.strip().lower()
        return True if text in GOOD else False if text in BAD else None
    return None
