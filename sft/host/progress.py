"""What a user sees of a run that is at work: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sft.run import ENDED

PLAIN_EVERY_S = 10.0  # seconds between lines without a terminal


def terminal() -> Console:
    """Return the console that tasks print on: text as it is, long lines left to the terminal."""
    return Console(highlight=False, markup=False, soft_wrap=True)


class Display:
    """Shows `state.json` as it changes."""

    def __init__(self, console: Console) -> None:
        """Show it on `console`."""
        self.console = console
        self.bar: Progress | None = None
        self.phase = ""
        self.said_at = 0.0

    def show(self, state: dict[str, Any]) -> None:
        """Show a run's state, where it says something new."""
        phase, done, total = amounts(state)
        if self.console.is_terminal:
            self.move_bar(phase, done, total, details(state))
            return
        changed, due = phase != self.phase, time.monotonic() - self.said_at > PLAIN_EVERY_S
        if changed or (due and total):
            self.phase, self.said_at = phase, time.monotonic()
            self.console.print("  ".join(part for part in (phase, of(done, total), details(state)) if part))

    def move_bar(self, phase: str, done: int, total: int, info: str) -> None:
        """Move the bar of a phase; a new phase gets a new bar below."""
        if phase != self.phase:
            self.close(done=phase not in ("stopped", "failed"))
            self.phase = phase
            if phase in ENDED:
                return
            self.bar = Progress(
                TextColumn("{task.description:<26}"),
                BarColumn(20),
                TextColumn("{task.fields[info]}"),
                TimeElapsedColumn(),
                console=self.console,
            )
            self.bar.add_task(phase, total=None, info="")
            self.bar.start()
        if self.bar:
            info = "  ".join(part for part in (of(done, total), info) if part)
            self.bar.update(self.bar.tasks[0].id, completed=done, total=total or None, info=info)

    def close(self, done: bool = False) -> None:
        """Leave the last bar as it stands, or full where its phase is done."""
        if self.bar:
            task = self.bar.tasks[0]
            if done:
                self.bar.update(task.id, completed=task.total or 1, total=task.total or 1)
            self.bar.stop()
            self.bar = None


def of(done: int, total: int) -> str:
    """Return how much is done of how much, or nothing where that is not known."""
    return f"{done:,}/{total:,}" if total else ""


@contextmanager
def display(console: Console) -> Iterator[Display]:
    """Yield a display, closed at the end."""
    shown = Display(console)
    try:
        yield shown
    finally:
        shown.close()


def amounts(state: dict[str, Any]) -> tuple[str, int, int]:
    """Return what a run is doing in words, and how much of it is done of how much (0: not known)."""
    status = state.get("status", "launching")
    if status == "evaluating":
        models = {"before": "base model", "after": "tuned model"}
        model = models.get(str(state.get("evaluating")), "model in training")
        return f"evaluating the {model}", state.get("answers", 0), state.get("total_answers", 0)
    if status in ("training", "saving"):
        if status == "saving" and state["step"] == state["total_steps"]:
            return "saving the final model", 0, 0
        return "training", state["step"], state["total_steps"]
    words = {"launching": "starting the nodes", "preparing": "preparing data and model"}
    return words.get(status, status), 0, 0


def details(state: dict[str, Any]) -> str:
    """Return loss, speed and time left of a run that trains."""
    if state.get("status") != "training" or "loss" not in state:
        return ""
    speed = f"{state['tokens_per_second']:,.0f} tokens/s"
    loss = "not finite" if state["loss"] is None else f"{state['loss']:.4f}"  # fp16: the step is skipped
    return f"loss {loss}  {speed}  {duration(state['time_left_s'])} left"


def duration(seconds: float) -> str:
    """Return a duration as m:ss or h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
