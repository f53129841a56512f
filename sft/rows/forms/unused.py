"""Columns that no form reads: they are counted, or refused if USE_COLUMNS says so."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from sft.errors import DataError
from sft.rows.forms.columns import Columns, is_or_are, quoted, says_something, without
from sft.settings.fields import Settings

# Columns about a row, which USE_COLUMNS=refuse lets pass.
ABOUT = frozenset(
    {
        "id", "idx", "index", "uuid", "guid", "key", "hash", "source", "origin", "dataset", "dataset_name", "split",
        "url", "license", "language", "lang", "category", "topic", "domain", "subject", "type", "task", "tags", "meta",
        "metadata", "model", "author", "timestamp", "date", "created_at", "tokens", "num_tokens", "length",
        "num_turns", "score", "rating", "difficulty", "level", "schemaversion", "parallel_tool_calls", "data_source",
        "ability", "mask",
    }
)  # fmt: skip


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


def check_unused(names: Collection[str], columns: Columns, texts: Collection[str], settings: Settings) -> None:
    """Raise DataError for columns that are not used, if USE_COLUMNS refuses those and they have a text of their own."""
    if names and settings.use_columns == "refuse" and (own := list(with_own_text(names, columns, texts))):
        what = f"{quoted(own)} {is_or_are(own)} not used"
        remedy = f"give it a role with COLUMNS, leave it out with {without(own[0])}, or set USE_COLUMNS=warn"
        raise DataError(f"{columns.where}: {what}; {remedy}")


def with_own_text(names: Collection[str], columns: Columns, texts: Collection[str]) -> Iterator[str]:
    """Yield the columns that are neither about the row nor the same as one of the `texts` that are used, or as all.

    Alpaca's `text` holds the prompt and the response, with words around them.
    """
    for column in names:
        value = columns.row[column]
        is_same = isinstance(value, str) and (value.strip() in texts or all(text in value for text in texts))
        if not is_about(column) and not is_same:
            yield column


def is_about(column: str) -> bool:
    """Return whether the name of a column says that it is about the row."""
    name = column.strip().lower()
    return name in ABOUT or name.endswith(("_id", "_idx", "_index")) or name.startswith("__")
