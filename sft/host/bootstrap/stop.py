"""How a program of the set-up ends: with one line, if the user has to do something, and if a signal ends it."""

import signal
import sys
from types import FrameType
from typing import Callable, NoReturn, Optional

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal that ends this program."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name, self.exit_code = signal.Signals(number).name, 128 + number


def stop(line: str) -> NoReturn:
    """Print a line and exit: only the user can help."""
    sys.stderr.write(line + "\n")
    sys.exit(2)


def run(main: Callable[[], None], after: str) -> None:
    """Run a program. If a signal ends it, one line says so, and what holds `after` that."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` has SIGHUP ignored
            signal.signal(number, interrupt)
    try:
        main()
    except Interrupted as interrupted:
        sys.stderr.write(f"ended by {interrupted.name}: {after}\n")
        sys.exit(interrupted.exit_code)


def interrupt(number: int, _frame: Optional[FrameType]) -> None:
    """Raise Interrupted at the first signal: a second one must not interrupt what is cleaned up then."""
    for again in SIGNALS:
        signal.signal(again, signal.SIG_IGN)
    raise Interrupted(number)
