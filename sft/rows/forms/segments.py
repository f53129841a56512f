"""A text in segments, of which some are targets: `{"segments": [{"label": false, "text": "…"}, {"label": true, …}]}`.

axolotl's input_output, for prompts that no chat template writes: the segments hold all marks themselves.
https://docs.axolotl.ai/docs/dataset-formats/template_free.html
"""

from __future__ import annotations

from sft.errors import DataError
from sft.rows.values import check_keys, checked_list, checked_text

Segment = tuple[str, bool]  # a text, and whether it is a target
EXAMPLE = '[{"label": false, "text": "Question: …"}, {"label": true, "text": "Answer: …"}]'


def segments_of(value: object, where: str, what: str) -> tuple[Segment, ...]:
    """Return the segments in a list. Raises DataError.

    >>> segments_of([{"label": False, "text": "2 + 2 ="}, {"label": True, "text": " 4"}], "", "")
    (('2 + 2 =', False), (' 4', True))
    """
    found = []
    for number, entry in enumerate(checked_list(value, where, what, EXAMPLE), 1):
        place = f"segment {number} of {what}"
        check_keys(entry, ("label", "text"), where, place)
        label = entry.get("label")
        if not isinstance(label, bool):
            raise DataError(f"{where}: `label` of {place} is not true or false; write true for a target")
        found.append((checked_text(entry.get("text"), where, f"the text of {place}"), label))
    if not any(text for text, label in found if label):
        raise DataError(f"{where}: no segment of {what} has the label true, so no target token; give one to the answer")
    return tuple(found)
