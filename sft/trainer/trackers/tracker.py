"""The interface of a tracker: `metrics.jsonl` (metrics_file.py), Weights & Biases (wandb_tracker.py), or one of your
own.

A new tracker is a file with a class like `Tracker` and a function like `Starter`, which is added to STARTERS in
trackers.py. If the tracker has settings, they go into sft/settings/fields.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sft.run.directory import Run
from sft.run.metrics import Line
from sft.settings.fields import Settings


class Tracker(Protocol):
    """Receives a run's numbers. Only rank 0 has trackers.

    The training must not end because of a tracker: it catches the errors of its own service, and says so once.
    """

    def log(self, line: Line) -> None:
        """Take one line. Must not block: the other ranks wait for rank 0 in the next step."""

    def close(self) -> None:
        """Write or send what is left. The run ends, and waits for at most about a minute."""


# Called when training begins, as start(run, settings, logged): the first `logged` lines of `metrics.jsonl` are of
# earlier attempts of a resumed run, and the tracker has had them. Lines of this attempt are logged to it right after.
# Returns None if the settings switch this tracker off.
Starter = Callable[[Run, Settings, int], Tracker | None]
