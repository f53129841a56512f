"""Lists of turns without roles, which take turns: the user's first. They become lists of messages.

- texts, `["question", "answer", …]`, in the column `data`: UltraChat, https://huggingface.co/datasets/openbmb/UltraChat
- pairs, `[{"input": "…", "output": "…"}, …]`, the first maybe with a `system` message: Capybara and XTuner,
  https://huggingface.co/datasets/LDJnr/Capybara, https://xtuner.readthedocs.io/en/latest/training/multi_turn_conversation.html
"""

from __future__ import annotations

from sft.rows.values import check_keys, checked_text, is_filled

PAIR = ("input", "output")


def as_messages(entries: object, where: str, what: str) -> object:
    """Return the messages of a list of turns, and any other value as it is. Raises DataError.

    >>> as_messages([{"input": "Hi", "output": "Hello"}], "", "")
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]
    """
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


def is_texts(entries: list[object], what: str) -> bool:
    """Return whether a list holds the texts of turns, whose column only one data set has."""
    return what.strip("`").lower() == "data" and all(isinstance(entry, str) for entry in entries)
