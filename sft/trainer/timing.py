"""The speed of the steps, without the pauses between them, and where the wall time of a run goes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from sft.run.directory import Run
from sft.trainer.distributed import World

WINDOW = 20  # steps: the first ones are slow, and a user wants to see the present
STATE_EVERY_S = 0.5
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
        """Note the end of a step that trained on `tokens` real tokens over all ranks."""
        now = time.monotonic()
        self.steps.append((now - self.since, tokens))
        self.first_s = self.first_s or now - self.since
        self.all_s += now - self.since
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


class Phases:
    """Adds up the seconds that a run spends in each phase, over all its attempts, in `state.json`."""

    def __init__(self, run: Run, world: World) -> None:
        self.run, self.world = run, world

    def add(self, **seconds: float) -> None:
        """Add seconds to phases (rank 0)."""
        if not self.world.is_main:
            return
        spent = self.run.state().seconds
        total = {phase: round(spent.get(phase, 0.0) + seconds.get(phase, 0.0), 2) for phase in PHASES}
        self.run.tell(seconds=total)

    @contextmanager
    def spending(self, phase: str) -> Iterator[None]:
        """Add the time that is spent inside to a phase."""
        started = time.monotonic()
        yield
        self.add(**{phase: time.monotonic() - started})
