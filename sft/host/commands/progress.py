"""What a user sees while a run is at work: a progress bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table

from sft.host.screen import duration
from sft.run.records import ENDED, State

if TYPE_CHECKING:
    from rich.live import Live

PLAIN_EVERY_S = 10.0  # seconds between lines without a terminal
WIDE = 76  # columns from which phases have their long names
LABEL, SHORT_LABEL = 26, 14  # columns of the longest long and short name, so that the bars of all phases are aligned
BAR, LEAST_BAR = 20, 8  # columns of a bar, at most and at least


@dataclass(frozen=True)
class Phase:
    """What a run is doing, and how much of it is done."""

    bar: str  # phases with the same one share a progress bar
    name: str
    short: str  # for a narrow terminal
    done: int = 0
    total: int = 0  # 0: unknown
    loss: str = ""
    speed: str = ""
    left: str = ""
    ended: bool = False

    @property
    def amounts(self) -> str:
        """How much is done of how much; empty if it is unknown."""
        return f"{self.done:,}/{self.total:,}" if self.total else ""

    def line(self) -> str:
        return "  ".join(part for part in (self.name, self.amounts, self.loss, self.speed, self.left) if part)


def phase_of(state: State) -> Phase:
    """Return what a run is doing. A validation or a save between steps is part of training."""
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
    words = {
        "queued": ("waiting for its job to start", "queued"),
        "launching": ("starting the nodes", "starting"),
        "preparing": ("preparing data and model", "preparing"),
    }
    return Phase(status, *words.get(status, (status, status)))


def rates(state: State) -> tuple[str, str, str]:
    """Return loss, speed and time left in words; empty before the first step."""
    if state.tokens_per_second is None or state.time_left_s is None:
        return "", "", ""
    loss = "not finite" if state.loss is None else f"{state.loss:.4f}"  # fp16: the step is skipped
    speed, left = f"{state.tokens_per_second:,.0f} tokens/s", f"{duration(state.time_left_s)} left"
    return f"loss {loss}", speed, left


def bar_line(phase: Phase, width: int, clock: str = "") -> RenderableType:
    """Draw a phase as a line with a progress bar, `width` columns in all.

    If there is no room, parts are left out: first the clock, then the speed, the time left, the loss. Each part is as
    wide as its longest value, so that nothing moves while the numbers change.
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
    """Shows the state of a run as it changes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.phase: Phase | None = None
        self.live: Live | None = None
        self.since = self.said_at = 0.0
        self.said = ""
        self.has_bar = console.is_terminal and not console.is_dumb_terminal

    def show(self, state: State) -> None:
        """Show a state if it has changed."""
        phase = phase_of(state)
        if self.phase is None or phase.bar != self.phase.bar:
            self.end(state)
            self.begin(phase)
        elif not self.has_bar and phase.total and time.monotonic() - self.said_at > PLAIN_EVERY_S:
            self.say(phase)
        self.phase = phase

    def begin(self, phase: Phase) -> None:
        """Show a new phase below the previous one. The end of a run is not a phase: the report follows."""
        self.phase, self.since = phase, time.monotonic()
        if not self.has_bar:
            self.say(phase)
        elif phase.bar not in ENDED:
            from rich.live import Live  # 4 ms that a look at a run does not need

            self.live = Live(get_renderable=self.line, console=self.console, refresh_per_second=5)
            self.live.start()

    def end(self, state: State) -> None:
        """Show the previous phase as it ended: complete, with its last numbers, unless the run ended early in it."""
        if self.phase is None:
            return
        before, broke_off = self.phase, state.status in ("stopped", "failed")
        if before.bar == "training":  # its last step is newer than the state that was shown last
            # If there is no total, the state could not be read: keep the last numbers.
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
        if self.phase is None:
            return ""
        clock = "" if self.phase.ended else duration(time.monotonic() - self.since)
        return bar_line(self.phase, self.console.width, clock)

    def say(self, phase: Phase) -> None:
        self.said, self.said_at = phase.amounts, time.monotonic()
        self.console.print(phase.line())

    def close(self) -> None:
        if self.live:
            self.live.stop()
            self.live = None


@contextmanager
def display(console: Console) -> Iterator[Display]:
    """Yield a display that is closed at the end."""
    shown = Display(console)
    try:
        yield shown
    finally:
        shown.close()
