"""How fast the steps go, without the pauses between them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

WINDOW = 20  # steps that the speed is averaged over: the first are slow, and users look at the present
STATE_EVERY_S = 0.5
# Where the wall time of a run goes, in the order of the report.
PHASES = (
    "starting", "base model", "data", "evaluation before", "loading", "first step", "training", "validation",
    "saving", "evaluation after",
)  # fmt: skip


class Clock:
    """Measures steps from its creation on."""

    def __init__(self) -> None:
        self.steps: deque[tuple[float, int]] = deque(maxlen=WINDOW)  # seconds, tokens
        self.since = time.monotonic()
        self.state_at = 0.0
        self.first_s = self.all_s = 0.0  # the first step, and all of them

    def count(self, tokens: int) -> None:
        """Note the end of a step that trained on `tokens` tokens over all ranks, without padding."""
        now = time.monotonic()
        self.steps.append((now - self.since, tokens))
        self.first_s = self.first_s or now - self.since
        self.all_s += now - self.since
        self.since = now

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what happens inside, such as a save or a validation, from the time of the step."""
        started = time.monotonic()
        yield
        self.since += time.monotonic() - started

    @property
    def step_s(self) -> float:
        """Seconds per step."""
        return sum(seconds for seconds, _ in self.steps) / len(self.steps)

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second over all ranks, without padding."""
        return sum(tokens for _, tokens in self.steps) / sum(seconds for seconds, _ in self.steps)

    def state_is_due(self) -> bool:
        """Whether to write `state.json` again. People read it, so not every step needs it."""
        if time.monotonic() - self.state_at < STATE_EVERY_S:
            return False
        self.state_at = time.monotonic()
        return True
