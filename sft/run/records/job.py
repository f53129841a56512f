"""`job.json`: the job of a scheduler that works on a run."""

from __future__ import annotations

from sft.run.light import dataclass
from sft.run.typed_json import Record


@dataclass(frozen=True, kw_only=True)
class Job(Record):
    """`job.json`: the newest Slurm job of a run."""

    number: int = 0
    submitted_at: float = 0.0  # seconds since 1970
