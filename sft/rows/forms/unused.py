"""Columns that no form reads. Some say that a row must not be trained as it is: those are refused, the others counted.

Preferences, votes and pictures as TRL, LLaMA-Factory and ms-swift name them:
https://huggingface.co/docs/trl/dataset_formats
https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md
https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache

from sft.errors import DataError
from sft.rows.conversation import Conversation
from sft.rows.forms.columns import Columns, given, is_or_are, quoted, says_something, without
from sft.settings.fields import Settings
from sft.settings.kinds import ColumnRole

PREFERENCES = frozenset(
    {
        "chosen", "rejected", "chosen_response", "rejected_response", "chosen_messages", "rejected_messages",
        "preferred_output", "non_preferred_output", "response_chosen", "response_rejected",
    }
)  # fmt: skip
BADLY = ("rejected", "non_preferred", "response_rejected")
VOTES = frozenset({"label", "labels", "kto_label", "kto_tag", "vote", "thumbs_up"})
VERDICTS = frozenset({"correct", "is_correct", "accepted", "is_accepted"})  # only a bad one is refused
PICTURES = frozenset(
    {
        "image", "images", "image_path", "image_paths", "image_url", "image_urls", "picture", "pictures",
        "pixel_values", "audio", "audios", "video", "videos",
    }
)  # fmt: skip
# Columns about a row, which USE_COLUMNS=refuse lets pass.
ABOUT = frozenset(
    {
        "id", "idx", "index", "uuid", "guid", "key", "hash", "source", "origin", "dataset", "dataset_name", "split",
        "url", "license", "language", "lang", "category", "topic", "domain", "subject", "type", "task", "tags", "meta",
        "metadata", "model", "author", "timestamp", "date", "created_at", "tokens", "num_tokens", "length",
        "num_turns", "score", "rating", "difficulty", "level",
    }
)  # fmt: skip
GOOD, BAD = ("true", "good", "yes", "1"), ("false", "bad", "no", "0", "-1")


def problem_of_kind(columns: Columns) -> DataError | None:
    """Return what is wrong with a row of preferences, votes or pictures, unless the settings say what to do."""
    row, of_kinds = columns.row, of_a_kind(tuple(columns.row))
    if not of_kinds:
        return None
    names = {column: name for column, name in of_kinds.items() if column not in columns.named}
    asked = {"response", "messages"} & set(columns.named.values())  # the settings say which answer is trained
    found = [column for column, name in names.items() if name in PREFERENCES and says_something(row[column])]
    if found and not asked:
        what = f"{quoted(found, ' and ')} {is_or_are(found)} a preference, and only good answers are trained"
        good = next((column for column in found if not names[column].startswith(BADLY)), None)
        if good is None:
            return DataError(f"{columns.where}: {what}; leave out what is not: {without(found[0])}")
        role: ColumnRole = "messages" if isinstance(row[good], list) else "response"
        return DataError(f"{columns.where}: {what}; name the good one: {given(good, role)}")
    for column, name in names.items():
        verdict = verdict_of(row[column]) if name in VOTES or name in VERDICTS else None
        if verdict is False or (verdict and name in VOTES):
            what = f"{quoted([column])} says whether the answer is good, and every answer is trained as a good one"
            return DataError(f"{columns.where}: {what}; remove the rows with bad answers, then set {without(column)}")
    if pictures := [column for column, name in names.items() if name in PICTURES and says_something(row[column])]:
        what = f"{quoted(pictures)} {is_or_are(pictures)} not text, and only text is trained"
        remedy = f"remove the row, or leave the column out: {without(pictures[0])}"
        return DataError(f"{columns.where}: {what}; {remedy}")
    return None


@lru_cache
def of_a_kind(names: tuple[str, ...]) -> Mapping[str, str]:
    """Return the columns of these kinds, with their names in small letters."""
    kinds = PREFERENCES | VOTES | VERDICTS | PICTURES
    return {column: name for column in names if (name := column.strip().lower()) in kinds}


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


def unused(columns: Columns, used: Collection[str]) -> tuple[str, ...]:
    """Return the filled columns that are not used, and that the settings do not leave out."""
    return tuple(
        column
        for column, value in columns.row.items()
        if column not in used and columns.named.get(column) != "unused" and says_something(value)
    )


def check_named(names: Collection[str], columns: Columns, used: Sequence[str]) -> None:
    """Raise DataError for a column that the settings give a role, which this row's form does not use."""
    for name in names:
        if role := columns.named.get(name):
            what = f"{quoted([name])} has the role {role}, but the row is read from {quoted(used)} without it"
            remedy = f"take the role from it, or leave the others out, as in {without(used[0])}"
            raise DataError(f"{columns.where}: {what}; {remedy}")


def check_unused(names: Collection[str], columns: Columns, conversation: Conversation, settings: Settings) -> None:
    """Raise DataError for columns that are not used, if USE_COLUMNS refuses those and they have a text of their own."""
    if names and settings.use_columns == "refuse" and (own := list(with_own_text(names, columns, conversation))):
        what = f"{quoted(own)} {is_or_are(own)} not used"
        remedy = f"give it a role with COLUMNS, leave it out with {without(own[0])}, or set USE_COLUMNS=warn"
        raise DataError(f"{columns.where}: {what}; {remedy}")


def with_own_text(names: Collection[str], columns: Columns, conversation: Conversation) -> Iterator[str]:
    """Yield the columns that are neither about the row nor the same as something that is used."""
    texts = {message.content.strip() for message in conversation.messages if message.content}
    for column in names:
        value, name = columns.row[column], column.strip().lower()
        is_about = name in ABOUT or name.endswith(("_id", "_idx", "_index")) or name.startswith("__")
        if not is_about and not (isinstance(value, str) and value.strip() in texts):
            yield column
