"""Start a run's nodes, show the run while it is at work, pass on stop requests, and judge how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from sft.errors import SftError, UserError
from sft.failures import exit_in_words, kind_of_exit
from sft.host.commands import ending
from sft.host.commands.describe import describe
from sft.host.commands.progress import display
from sft.host.launch.launcher import Nodes
from sft.host.launch.signals import StopRequest
from sft.run.directory import Run
from sft.run.records import Failure, State

POLL_S = 0.2


@dataclass(frozen=True)
class Watched:
    """How the nodes of a run ended."""

    run: Run
    interrupted: bool
    failure: Failure | None = None  # of a run that is `failed`

    @property
    def broke(self) -> bool:
        """Whether the run failed without having been asked to stop."""
        return self.failure is not None and not self.interrupted and self.run.stop_reason() is None

    @property
    def found_wrong(self) -> bool:
        """Whether the run trained nothing: before its inputs were ready, something was wrong that the user can fix."""
        is_fixable = self.failure is not None and self.failure.is_fixable
        return self.broke and is_fixable and not (self.run.has_trained or self.run.prepared.is_file())

    @property
    def restart_may_help(self) -> bool:
        """Whether the run broke in a way that a restart may avoid."""
        return self.broke and self.failure is not None and self.failure.restart_may_help


def watch(run: Run, start: Callable[[Run], Nodes], console: Console, heard: StopRequest) -> Watched:
    """Start a run's nodes and show it until they have ended.

    A signal asks the run to save and stop, a second Ctrl-C ends it at once. If a signal came before the nodes were
    started, the run stops there. Raises UserError if they cannot be started, or if the run's directory is gone.
    """
    if heard.stop:
        run.request_stop(heard.stop)
        run.update_state("stopped")
        return Watched(run, interrupted=True)
    with display(console) as shown:
        nodes = start_nodes(run, start)
        requests = Requests(run, nodes, heard)
        described, warnings = False, Warnings(console)
        while not have_ended(run, nodes):
            if run.gone():  # its nodes notice it too
                time.sleep(POLL_S)
                continue
            requests.pass_on(console)
            if not described and run.prepared.is_file():
                describe(run, console)
                described = True
            state = run.state()
            warnings.tell(state)
            shown.show(state)
            time.sleep(POLL_S)
        if line := run.gone():
            raise UserError(line)
        if not run.ended:
            run.end_as_failed(Failure(kind="killed", reason="the node programs were killed"))
        state = run.state()
        warnings.tell(state)
        shown.show(state)
    failure = run.failure() if run.state().status == "failed" else None
    return Watched(run, heard.stop is not None, failure)


def start_nodes(run: Run, start: Callable[[Run], Nodes]) -> Nodes:
    """Start the nodes. If that fails, the run has failed, and SftError is raised."""
    try:
        return start(run)
    except SftError as error:
        run.end_as_failed(Failure(kind=error.kind, reason=str(error)))
        raise


def have_ended(run: Run, nodes: Nodes) -> bool:
    """Tell whether all node programs have ended. Record a failure for one that broke without saying why."""
    codes = nodes.codes()
    for rank, code in enumerate(codes):
        if code and not run.gone() and run.failure() is None:
            reason = f"node {rank}: its program {exit_in_words(code)}"
            run.fail(Failure(kind=kind_of_exit(code), reason=reason, nodes=[rank]))
    return None not in codes


class Warnings:
    """Prints the warnings of a run, each once."""

    def __init__(self, console: Console) -> None:
        self.console, self.told = console, 0

    def tell(self, state: State) -> None:
        """Print those that have come since the last call."""
        for line in state.warnings[self.told :]:
            self.console.print(f"warning: {line}")
        self.told = max(self.told, len(state.warnings))


class Requests:
    """Passes the requests of signals on to the run and its nodes, each once."""

    def __init__(self, run: Run, nodes: Nodes, heard: StopRequest) -> None:
        self.run, self.nodes, self.heard = run, nodes, heard
        self.has_stopped = self.has_ended = False

    def pass_on(self, console: Console) -> None:
        """Pass on what has been requested since the last call."""
        if self.heard.stop and not self.has_stopped:
            self.has_stopped = True
            if self.run.stop_reason() is None:  # a job that its user has stopped is not queued again
                self.run.request_stop(self.heard.stop)
            console.print(f"stopping{ending.stopping(self.run.state())}; Ctrl-C again ends at once")
        if self.heard.at_once and not self.has_ended:
            self.has_ended = True
            self.nodes.end_now()
