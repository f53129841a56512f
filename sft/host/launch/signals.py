"""What signals mean to the tasks and to the node program: save and stop, or end at once.

Signals come several at a time, so they are not counted. `timeout` signals make, which passes the signal on, and then
their whole process group; a login session ends with SIGTERM and SIGHUP; systemd and `scancel` signal every process of a
run. All of these mean: save and stop. Only a person's second Ctrl-C, AGAIN_S or more after the first, means: at once.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BLOCKED = {*STOP, signal.SIGQUIT, signal.SIGUSR1}
AGAIN_S = 1.0  # two SIGINTs closer together are one Ctrl-C that arrived in two ways


class Interrupted(KeyboardInterrupt):
    """A signal ended a task that had no run at work."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name, self.exit_code = signal.Signals(number).name, 128 + number


class StopRequest:
    """What signals have requested so far."""

    def __init__(self) -> None:
        self.stop: str | None = None  # the first signal's name
        self.at_once = False
        self.interrupted_at: float | None = None

    def note(self, number: int, _frame: FrameType | None = None) -> None:
        self.stop = self.stop or signal.Signals(number).name
        if number == signal.SIGINT:
            now = time.monotonic()
            if self.interrupted_at is None:
                self.interrupted_at = now
            self.at_once = self.at_once or now - self.interrupted_at >= AGAIN_S
        self.at_once = self.at_once or number == signal.SIGQUIT


@contextmanager
def handled(handler: Callable[[int, FrameType | None], Any], *more: signal.Signals) -> Iterator[None]:
    """Handle those of STOP and `more` with `handler` meanwhile. If `nohup` has SIGHUP ignored, it stays ignored."""
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    mine = [number for number in (*STOP, *more) if number != signal.SIGHUP or not nohup]
    before = [(number, signal.signal(number, handler)) for number in mine]
    try:
        yield
    finally:
        for number, earlier in before:
            signal.signal(number, earlier)


@contextmanager
def raising() -> Iterator[None]:
    """Raise Interrupted at the first signal, so that a task cleans up what it has begun.

    `timeout` sends two signals, and the second must not interrupt the cleaning up. A person's second Ctrl-C does.
    """
    request = StopRequest()

    def interrupt(number: int, _frame: FrameType | None) -> None:
        is_first = request.stop is None
        request.note(number)
        if is_first or request.at_once:
            raise Interrupted(number)

    with handled(interrupt):
        yield


@contextmanager
def noted(*more: signal.Signals) -> Iterator[StopRequest]:
    """Note signals instead of ending, while there is a run that this program has to see to its end."""
    request = StopRequest()
    with handled(request.note, *more):
        yield request


@contextmanager
def blocked() -> Iterator[None]:
    """Hold signals back from programs that are started meanwhile, until they are ready to handle them.

    A signal would end a new process. The node program calls `unblock` itself, sft/trainer/process.py does so for a
    rank, and DeepSpeed's launcher and docker never get signals.
    """
    before = block()
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def block() -> set[Any]:
    """Hold signals back from this process and from what it starts. Return those that were held back before."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)


def unblock() -> None:
    """Let this process receive the signals that were held back from it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)


class Signals:
    """What requests the end of this node: a signal, or the end of the program that started this one."""

    def __init__(self) -> None:
        """Handle the signals, also those that came before this program was ready, and note who started it."""
        self.parent = os.getppid()
        self.request = StopRequest()
        for number in (*STOP, signal.SIGQUIT):
            signal.signal(number, self.request.note)
        unblock()

    @property
    def end_now(self) -> bool:
        """Whether the node is to end without saving."""
        return self.request.at_once

    def who(self) -> str | None:
        """Return what requests a stop, or None."""
        if self.request.stop:
            return "a signal to node"
        return "the end of what started node" if os.getppid() != self.parent else None
