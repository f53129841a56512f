"""Whether the ranks show a sign of life in time."""

from __future__ import annotations

import time

from sft.run.directory import Run
from sft.run.records import Failure

SLOWER = 10  # loading, blocking saves, evaluation and export get this multiple of STEP_TIMEOUT_S


class Heartbeat:
    """What `state.json` tells about the ranks: rank 0 changes it with every step, and while it evaluates or saves."""

    def __init__(self, run: Run, limit_s: int) -> None:
        """Watch from now on. `limit_s` is the longest time between steps, 0 for none."""
        self.run, self.limit_s = run, limit_s
        self.seen: float | None = None
        self.since = time.monotonic()

    def failure(self) -> Failure | None:
        """Return a message if the ranks have been silent for too long, otherwise None."""
        state = self.run.state()
        if (sign := state.updated_at) != self.seen:  # compared with itself: clocks of machines differ
            self.seen, self.since = sign, time.monotonic()
        steps = state.status == "training"
        limit_s = self.limit_s if steps else SLOWER * self.limit_s
        if not limit_s or time.monotonic() - self.since < limit_s:
            return None
        setting = f"STEP_TIMEOUT_S={self.limit_s}"
        limit = f"{setting} seconds" if steps else f"{SLOWER} x {setting} seconds ({state.status})"
        return Failure(kind="hang", reason=f"no sign of the ranks within {limit}, after step {state.step}")
