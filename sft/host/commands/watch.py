"""Start a run's nodes, show the run while it is at work, pass on stop requests, and judge how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from sft.errors import SftError
from sft.failures import exit_in_words, kind_of_exit
from sft.host.commands.describe import describe
from sft.host.commands.progress import display
from sft.host.launch.launcher import Nodes
from sft.host.launch.signals import Asked
from sft.run.directory import Run
from sft.run.records import Failure

POLL_S = 0.2


@dataclass(frozen=True)
class Watched:
    """How the nodes of a run ended."""

    run: Run
    interrupted: bool
    failure: Failure | None = None  # of a run that is `failed`

    @property
    def broke(self) -> bool:
        """Whether the run failed, and not while it was asked to end."""
        return self.failure is not None and not self.interrupted and self.run.stop_reason() is None

    @property
    def found_wrong(self) -> bool:
        """Whether a run without a step failed before it had its inputs, for what the user can fix: it is empty."""
        is_fixable = self.failure is not None and self.failure.is_fixable
        return self.broke and is_fixable and not (self.run.has_trained or self.run.prepared.is_file())

    @property
    def restart_may_help(self) -> bool:
        """Whether the run broke in a way that may not come back."""
        return self.broke and self.failure is not None and self.failure.restart_may_help


def watch(run: Run, start: Callable[[Run], Nodes], console: Console, heard: Asked) -> Watched:
    """Start a run's nodes and show it until they have ended.

    A signal asks it to save and stop, a second Ctrl-C ends it at once. One that came before there are nodes stops the
    run there. Raises UserError where they cannot be started.
    """
    if heard.stop:
        run.request_stop(heard.stop)
        run.update_state("stopped")
        return Watched(run, interrupted=True)
    described = told = ended = False
    with display(console) as shown:
        try:
            started = start(run)
        except SftError as error:
            run.end_as_failed(Failure(kind=error.kind, reason=str(error)))
            raise
        warned = 0
        while True:
            codes = started.codes()
            for rank, code in enumerate(codes):
                if code and run.failure() is None:
                    reason = f"node {rank}: its program {exit_in_words(code)}"
                    run.fail(Failure(kind=kind_of_exit(code), reason=reason))
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
            run.end_as_failed(Failure(kind="killed", reason="the node programs were killed"))
        shown.show(run.state())
    failure = run.failure() if run.state().status == "failed" else None
    return Watched(run, heard.stop is not None, failure)
