"""What a user sees while a run is at work: a progress bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from sft.host.screen import duration
from sft.run.records import ENDED, State

PLAIN_EVERY_S = 10.0  # seconds between lines without a terminal
WIDE = 76  # columns from which a phase has its long name
LABEL, SHORT_LABEL = 26, 14  # columns of the longest long and short name: the bars of all phases begin below each other
BAR, LEAST_BAR = 20, 8  # columns of a bar: what the line leaves it


@dataclass(frozen=True)
class Phase:
    """What a run is doing, and how much of it is done."""

    bar: str  # what has a bar of its own
    name: str
    short: str  # for a narrow terminal
    done: int = 0
    total: int = 0  # 0: not known
    loss: str = ""
    speed: str = ""
    left: str = ""
    ended: bool = False

    @property
    def amounts(self) -> str:
        """How much is done of how much, or nothing if that is not known."""
        return f"{self.done:,}/{self.total:,}" if self.total else ""

    def line(self) -> str:
        """Return everything on one line of text."""
        return "  ".join(part for part in (self.name, self.amounts, self.loss, self.speed, self.left) if part)


def phase_of(state: State) -> Phase:
    """Return what a run is doing by its `state.json`. A validation or a save between steps is part of training."""
    status = state.status
    between = status == "evaluating" and state.evaluating not in ("before", "after")
    if status == "evaluating" and not between:
        if state.evaluating == "before":
            return Phase("before", "evaluating the base model", "base model", state.answers, state.total_answers)
        return Phase("after", "evaluating the tuned model", "tuned model", state.answers, state.total_answers)
    step, total = state.step, state.total_steps
    if status == "saving" and step == total:
        return Phase("final", "saving the final model", "saving model")
    if status in ("training", "saving") or between:
        name = {"evaluating": "validating", "saving": "saving a checkpoint"}.get(status, status)
        short = {"evaluating": "validating"}.get(status, status)
        return Phase("training", name, short, step, total, *rates(state))
    words = {"launching": ("starting the nodes", "starting"), "preparing": ("preparing data and model", "preparing")}
    return Phase(status, *words.get(status, (status, status)))


def rates(state: State) -> tuple[str, str, str]:
    """Return loss, speed and time left of a run that trains, in words; empty before its first step."""
    if state.tokens_per_second is None or state.time_left_s is None:
        return "", "", ""
    loss = "not finite" if state.loss is None else f"{state.loss:.4f}"  # fp16: the step is skipped
    speed, left = f"{state.tokens_per_second:,.0f} tokens/s", f"{duration(state.time_left_s)} left"
    return f"loss {loss}", speed, left


def bar_line(phase: Phase, width: int, clock: str = "") -> RenderableType:
    """Return a phase as a line with a bar of `width` columns in all.

    Parts that find no room are left out: first the clock, then the speed, the time left, the loss. Each part has the
    room of its longest value, so that nothing moves from one moment to the next.
    """
    wide = width >= WIDE
    label = LABEL if wide else SHORT_LABEL
    amounts = 2 * len(f"{phase.total:,}") + 1 if phase.total else 0
    parts = {"loss": (phase.loss, 12), "speed": (phase.speed, 17), "left": (phase.left, 12), "clock": (clock, 7)}
    parts = {name: (text, max(room, len(text))) for name, (text, room) in parts.items() if text}

    def room_for_bar() -> int:
        return width - label - 1 - (1 + amounts if amounts else 0) - sum(2 + room for _, room in parts.values())

    for name in ("clock", "speed", "left", "loss"):
        if room_for_bar() < LEAST_BAR:
            parts.pop(name, None)
    bar = max(0, min(BAR, room_for_bar()))
    done, total = (phase.done, phase.total) if phase.total else (int(phase.ended), 1)
    at_work = not (phase.total or phase.ended)
    grid = Table.grid()
    for columns in (label + 1, bar, *([1 + amounts] if amounts else []), *(2 + room for _, room in parts.values())):
        grid.add_column(width=columns, no_wrap=True, overflow="crop")
    grid.add_row(
        phase.name if wide else phase.short,
        ProgressBar(total, done, width=bar, pulse=at_work) if bar else "",
        *([f" {phase.amounts}"] if amounts else []),
        *(f"  {text}" for text, _ in parts.values()),
    )
    return grid


class Display:
    """Shows `state.json` as it changes."""

    def __init__(self, console: Console) -> None:
        """Show it on `console`."""
        self.console = console
        self.phase: Phase | None = None
        self.live: Live | None = None
        self.since = self.said_at = 0.0
        self.said = ""
        self.has_bar = console.is_terminal and not console.is_dumb_terminal

    def show(self, state: State) -> None:
        """Show a run's state, if it says something new."""
        phase = phase_of(state)
        if self.phase is None or phase.bar != self.phase.bar:
            self.end(state)
            self.begin(phase)
        elif not self.has_bar and phase.total and time.monotonic() - self.said_at > PLAIN_EVERY_S:
            self.say(phase)
        self.phase = phase

    def begin(self, phase: Phase) -> None:
        """Show a phase below the one before; the end of a run is told by others."""
        self.phase, self.since = phase, time.monotonic()
        if not self.has_bar:
            self.say(phase)
        elif phase.bar not in ENDED:
            self.live = Live(get_renderable=self.line, console=self.console, refresh_per_second=5)
            self.live.start()

    def end(self, state: State) -> None:
        """Leave the phase before as it ended: full, with its last numbers, unless the run broke off in it."""
        if self.phase is None:
            return
        before, broke_off = self.phase, state.status in ("stopped", "failed")
        if before.bar == "training":  # its last step is newer than the last look
            # Without a total the state cannot be read: the numbers of the last look stay.
            step, total = (state.step, state.total_steps) if state.total_steps else (before.done, before.total)
            loss, speed, _ = rates(state)
            before = replace(before, name="training", short="training", done=step, total=total, loss=loss, speed=speed)
        taken = f"in {duration(time.monotonic() - self.since)}"
        if broke_off:
            before = replace(before, left="")
        else:
            before = replace(before, done=before.total, left=taken, ended=True)
        if not self.has_bar and before.amounts != self.said:
            self.say(before)
        self.phase = before
        self.close()

    def line(self) -> RenderableType:
        """Return the line with the bar as it is now."""
        if self.phase is None:
            return ""
        clock = "" if self.phase.ended else duration(time.monotonic() - self.since)
        return bar_line(self.phase, self.console.width, clock)

    def say(self, phase: Phase) -> None:
        """Print a phase as a plain line."""
        self.said, self.said_at = phase.amounts, time.monotonic()
        self.console.print(phase.line())

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.live:
            self.live.stop()
            self.live = None


@contextmanager
def display(console: Console) -> Iterator[Display]:
    """Yield a display, closed at the end."""
    shown = Display(console)
    try:
        yield shown
    finally:
        shown.close()
