"""How fast the steps go: tokens per second and seconds per step over the last ones, without the pauses."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

WINDOW = 20  # steps: the first ones are slow, and a user wants to see the present
STATE_EVERY_S = 0.5


class Clock:
    """Measures steps from its creation on."""

    def __init__(self) -> None:
        self.steps: deque[tuple[float, int]] = deque(maxlen=WINDOW)  # seconds, tokens
        self.since = time.monotonic()
        self.state_at = 0.0

    def count(self, tokens: int) -> None:
        """Note the end of a step that trained on `tokens` real tokens over all ranks."""
        now = time.monotonic()
        self.steps.append((now - self.since, tokens))
        self.since = now

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what is done inside: a save or a validation is no part of a step."""
        started = time.monotonic()
        yield
        self.since += time.monotonic() - started

    @property
    def step_s(self) -> float:
        """Seconds per step."""
        return sum(seconds for seconds, _ in self.steps) / len(self.steps)

    @property
    def tokens_per_second(self) -> float:
        """Real tokens per second over all ranks, without padding."""
        return sum(tokens for _, tokens in self.steps) / sum(seconds for seconds, _ in self.steps)

    def state_is_due(self) -> bool:
        """Tell whether `state.json` is to be written again; it is read by people, not every step."""
        if time.monotonic() - self.state_at < STATE_EVERY_S:
            return False
        self.state_at = time.monotonic()
        return True
