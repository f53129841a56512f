"""Start a run's nodes, show the run while it is at work, pass on stop requests, and judge how it ended."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from sft.errors import NOT_FINITE, OUT_OF_MEMORY, SftError, UserError
from sft.host.commands.describe import describe
from sft.host.commands.progress import display
from sft.host.launch.local import Nodes
from sft.host.launch.ranks import ended_with
from sft.host.launch.signals import Asked
from sft.run.directory import Run

POLL_S = 0.2


@dataclass(frozen=True)
class Watched:
    """How the nodes of a run ended."""

    run: Run
    codes: list[int | None]
    interrupted: bool

    @property
    def broke(self) -> bool:
        """Whether the run failed, and not while it was asked to end."""
        asked = self.interrupted or self.run.stop_reason() is not None
        return self.run.state().status == "failed" and not asked

    @property
    def fixable(self) -> bool:
        """Whether a node ended for what the user can fix: a setting, a row."""
        return UserError.exit_code in self.codes

    @property
    def found_wrong(self) -> bool:
        """Whether a run without a step failed before it had its inputs, for what the user can fix: it is empty."""
        return self.broke and self.fixable and not (self.run.has_trained or self.run.prepared.is_file())

    @property
    def may_go_better(self) -> bool:
        """Whether the run broke in a way that may not come back: no wrong setting or row, no full disk or memory."""
        comes_back = (os.strerror(errno.ENOSPC), NOT_FINITE, OUT_OF_MEMORY)
        reason = str(self.run.state().error)
        would_come_back = self.fixable or any(words in reason for words in comes_back)
        return self.broke and not would_come_back


def watch(run: Run, start: Callable[[Run], Nodes], console: Console, heard: Asked) -> Watched:
    """Start a run's nodes and show it until they have ended.

    A signal asks it to save and stop, a second Ctrl-C ends it at once. One that came before there are nodes stops the
    run there. Raises UserError where they cannot be started.
    """
    if heard.stop:
        run.request_stop(heard.stop)
        run.update_state("stopped")
        return Watched(run, [], interrupted=True)
    described = told = ended = False
    with display(console) as shown:
        try:
            started = start(run)
        except SftError as error:
            run.update_state("failed", error=str(error))
            raise
        warned = 0
        while True:
            codes = started.codes()
            for rank, code in enumerate(codes):
                if code and run.failure() is None:
                    run.fail(f"node {rank}: its program {ended_with(code)}")
            if None not in codes:
                break
            if heard.stop and not told:
                told = True
                run.request_stop(heard.stop)
                console.print("stopping: finishing the step and saving; Ctrl-C again ends at once")
            if heard.at_once and not ended:
                ended = True
                started.end_now()
            if not described and run.prepared.is_file():
                describe(run, console)
                described = True
            for line in run.state().set_aside[warned:]:
                console.print(f"warning: {line}")
                warned += 1
            shown.show(run.state())
            time.sleep(POLL_S)
        if not run.ended:
            run.update_state("failed", error=run.failure() or "the node programs were killed")
        shown.show(run.state())
    return Watched(run, codes, interrupted=heard.stop is not None)
