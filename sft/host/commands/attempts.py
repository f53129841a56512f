"""Watch a run, and start it again if that may help: after memory ran out, or as often as RESTARTS allows."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

from sft.host.commands.watch import Watched, watch
from sft.host.launch.launcher import Nodes
from sft.host.launch.signals import StopRequest
from sft.run import budget, lifecycle
from sft.run.directory import Run


def watch_all(
    run: Run, start: Callable[[Run], Nodes], most_restarts: int, console: Console, heard: StopRequest
) -> Watched:
    """Watch all attempts of a run. Return how the last one ended. Raises UserError if its nodes cannot be started."""
    restarts = 0
    while True:
        before = budget.cuts(run)
        watched = watch(run, start, console, heard)
        cuts = budget.cuts(run)
        if watched.broke and len(cuts) > len(before):  # each cut is smaller than the last, so this ends
            what, limit = budget.in_words(cuts[-1]), cuts[-1].limit
            said = f"warning: {what}: resuming from {run.last_checkpoint()} with {limit:,}"
        elif restarts < most_restarts and watched.restart_may_help:
            restarts += 1
            number = f"{restarts} of RESTARTS={most_restarts}"
            said = f"failed: {run.state().error}; starting again from {run.last_checkpoint()} ({number})"
        else:
            return watched
        console.print(said)
        for line in lifecycle.reopen(run, run.settings(), again=True):
            console.print(line)
