"""`answers.jsonl`: every answer of the evaluations before and after training, one JSON object per line.

Users' scripts read the file, so a line has no version: `{"moment": "after", "index": 0, "prompt": "…", …}`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from sft.redaction import redact_all
from sft.run import files
from sft.run.records import AnswerLine, Moment


def write(path: Path, moment: Moment, answers: Sequence[AnswerLine]) -> None:
    """Write the answers of one moment, whole. Earlier ones of that moment go, those of the other stay.

    Raises OSError; the file then is as it was.
    """
    new = (json.dumps(redact_all(answer.to_json()), ensure_ascii=False) + "\n" for answer in answers)
    others = lines_of(path, "after" if moment == "before" else "before")
    files.write_lines(path, itertools.chain(new, others) if moment == "before" else itertools.chain(others, new))


def lines_of(path: Path, moment: Moment) -> Iterator[str]:
    """Yield a moment's lines, as they are in the file. Lines that cannot be read are left out."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                found = AnswerLine.from_json(files.parse(line))
            except ValueError:
                continue
            if found.moment == moment:
                yield line.decode().rstrip("\n") + "\n"
