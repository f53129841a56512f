"""Other lists of turns than those of messages, which become such ones. Those without roles begin with the user's.

- an object of lists, `{"role": ["user", …], "content": ["…", …]}`: what `datasets` makes of a `Sequence` of messages,
  https://huggingface.co/docs/datasets/about_dataset_features
- texts, `["question", "answer", …]`, in the column `data`: UltraChat, https://huggingface.co/datasets/openbmb/UltraChat
- pairs, `[{"input": "…", "output": "…"}, …]`, the first maybe with a `system` message: Capybara and XTuner,
  https://huggingface.co/datasets/LDJnr/Capybara, https://xtuner.readthedocs.io/en/latest/training/multi_turn_conversation.html
"""

from __future__ import annotations

from sft.rows.forms import sharegpt
from sft.rows.values import check_keys, checked_text, is_filled

PAIR = ("input", "output")


def as_messages(entries: object, where: str, what: str) -> object:
    """Return the messages of a list of turns, and any other value as it is. Raises DataError.

    >>> as_messages([{"input": "Hi", "output": "Hello"}], "", "")
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]
    """
    if isinstance(entries, dict):
        return transposed(entries)
    if not isinstance(entries, list) or not entries:
        return entries
    if is_texts(entries, what):
        roles = ("user", "assistant")
        return [{"role": roles[number % 2], "content": text} for number, text in enumerate(entries)]
    if not all(isinstance(entry, dict) and "output" in entry and "role" not in entry for entry in entries):
        return entries
    found: list[dict[str, object]] = []
    for number, pair in enumerate(entries, 1):
        place = f"{where}: pair {number}"
        check_keys(pair, ("system", *PAIR), place, what)
        turns = {"system": "system", "input": "user", "output": "assistant"}
        found += [
            {"role": role, "content": checked_text(pair[key], place, f"`{key}`")}
            for key, role in turns.items()
            if is_filled(pair.get(key))
        ]
    return found


def transposed(lists: dict[str, object]) -> object:
    """Return the messages in an object of lists, and any other object as it is."""
    columns = {key: value for key, value in lists.items() if isinstance(value, list)}
    lengths = {len(column) for column in columns.values()}
    if len(columns) < len(lists) or len(lengths) != 1 or not sharegpt.is_chat([lists]):
        return lists
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def is_texts(entries: list[object], what: str) -> bool:
    """Return whether a list holds the texts of turns, whose column only one data set has."""
    return what.strip("`").lower() == "data" and all(isinstance(entry, str) for entry in entries)
