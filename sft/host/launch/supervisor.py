"""Watch a node's programs while they work: pass on stop requests, and find out what broke."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from sft.errors import RunFailed, UserError
from sft.host.launch.heartbeat import Heartbeat
from sft.host.launch.link import Link, MasterLink, WorkerLink
from sft.host.launch.log import Log
from sft.host.launch.processes import Processes, kill
from sft.host.launch.ranks import REASON_WAIT_S, Ranks
from sft.host.launch.signals import Signals
from sft.run.directory import Run
from sft.run.records import Failure
from sft.settings.stages import Decided

POLL_S = 0.2
# All nodes together look into the run directory, which may lie on one NFS server, so many times a second at most.
# Node 0 looks at every turn, and tells the others over their connections if the run is broken.
LOOKS_PER_S = 100
FAILURE_GRACE_S = 10.0  # after a failure the other ranks get this long to write their stacks and end by themselves


class Supervisor:
    """Watches the programs, the ranks, the other nodes and the clock for one node."""

    def __init__(self, run: Run, settings: Decided, rank: int, ranks: range, link: Link, heard: Signals) -> None:
        """`rank`: the node's. `ranks`: those on it."""
        self.run, self.rank, self.link, self.heard = run, rank, link, heard
        self.log = Log(run.logs / f"node-{rank}.log")
        self.ranks = Ranks(run, ranks)
        self.processes = Processes(run, settings.device, ranks, self.log, self.ranks.read_line)
        self.alive_file = os.environ.get("NODE_ALIVE_FILE")  # for a health check
        self.lost_at: float | None = None  # when another node was first missed
        self.gone_at: float | None = None  # when the run directory was
        self.look_s = settings.nodes / LOOKS_PER_S if rank else 0.0
        self.looked_at = 0.0
        self.has_told = False  # of a failure
        self.told: Failure | None = None  # why the run is broken, as node 0 has said
        self.max_hours = settings.max_hours
        # Both times are from the clock of the task, which may be another machine's; from here on this machine's counts.
        state = run.state()
        hours_passed = max(0.0, (state.attempt_started_at or 0.0) - (state.hours_from or 0.0)) / 3600
        self.ends_at = time.monotonic() + 3600 * (self.max_hours - hours_passed)

    def look(self) -> None:
        """Pass on stop requests, notice a lost node, show that this program is alive, and wait a moment."""
        if self.alive_file:
            with contextlib.suppress(OSError):  # a failed health check is better than a failed run
                Path(self.alive_file).touch()
        who = self.heard.who()
        reason = f"{who} {self.rank}" if who else self.time_is_over()
        # Slurm ends the other nodes when one has failed: that is no request to stop, and the run may start again.
        if reason and self.run.stop_reason() is None and not self.failure() and not self.link.first_has_ended:
            self.run.request_stop(reason)
        self.link.poll()
        self.pass_on_failure()
        if (lost := self.link.lost()) and self.failure() is None:
            # Wait for a better reason: that node itself, or what started it, may say why it was lost.
            self.lost_at = self.lost_at or time.monotonic()
            if time.monotonic() - self.lost_at > REASON_WAIT_S:
                nodes = [rank for rank in [self.link.lost_rank()] if rank is not None]
                self.fail(Failure(kind="lost_node", reason=lost, nodes=nodes), "logs/ and `make test-env` may tell why")
        time.sleep(POLL_S)

    def look_for_directory(self) -> None:
        """Raise UserError if the run directory has been gone for a while: nothing can be saved any more.

        Over a network it may be back in a moment.
        """
        if not (line := self.run.gone()):
            self.gone_at = None
            return
        self.gone_at = self.gone_at or time.monotonic()
        if time.monotonic() - self.gone_at > REASON_WAIT_S:
            raise UserError(line)

    def pass_on_failure(self) -> None:
        """On node 0, tell the others once if the run is broken; on another node, believe it."""
        if self.has_told:
            return
        if isinstance(self.link, MasterLink):
            for line in self.link.said:
                self.log.write(line)
            self.link.said.clear()
            if failure := self.run.failure():
                self.has_told = True
                self.link.tell(failure)
        elif isinstance(self.link, WorkerLink) and (failure := self.link.broken()):
            self.has_told = True
            self.told = failure
            # Over NFS this node may not see the file for a minute. Trying to write it makes the system look again.
            if not self.link.first_has_ended:
                self.run.fail(failure)
            self.looked_at = 0.0

    def is_due(self) -> bool:
        """Whether it is time for a look into the run directory: the more nodes there are, the less often."""
        now = time.monotonic()
        if now - self.looked_at < self.look_s:
            return False
        self.looked_at = now
        return True

    def time_is_over(self) -> str | None:
        """Return a reason to stop if MAX_HOURS have passed, otherwise None. Only node 0 decides that."""
        if not self.max_hours or self.rank or time.monotonic() < self.ends_at:
            return None
        return f"MAX_HOURS={self.max_hours:g} have passed"

    @property
    def end_now(self) -> bool:
        """Whether this node is to end without saving."""
        return self.heard.end_now

    def see_through(
        self, process: subprocess.Popen[str], until_stop: bool = False, heartbeat: Heartbeat | None = None
    ) -> None:
        """Wait for a program's end. End it at once on request, and some time after a failure."""
        failed_at = None
        while process.poll() is None:
            self.look()
            if self.is_due():
                self.look_for_directory()
                self.judge_ranks()
                if heartbeat and (silence := heartbeat.failure()):
                    self.fail(silence, "the stacks of all ranks are in logs/")
                if failed_at is None and self.failure():
                    failed_at = time.monotonic()
                    self.processes.write_stacks()
            stopped = self.end_now or (until_stop and self.run.stop_reason() is not None)
            if stopped or (failed_at and time.monotonic() - failed_at > FAILURE_GRACE_S):
                kill(process)

    def judge_ranks(self) -> None:
        """Fail the run if a rank of this node broke, and no better reason has been recorded in time."""
        self.ranks.look()
        if self.ranks.broke_at is None:
            return
        failure, wait_s = self.ranks.failure()
        if time.monotonic() - self.ranks.broke_at >= wait_s:
            self.fail(failure)

    def wait_for_reason(self) -> None:
        """Wait until a reason for the failure has been recorded; this node has only a rank's exit code."""
        while not self.end_now:
            if self.is_due():
                self.look_for_directory()
                if self.failure():
                    return
                self.judge_ranks()
            self.look()

    def fail(self, failure: Failure, hint: str = "") -> None:
        """Record a failure that this node has found, with a hint where to read more: by default this node's log."""
        hint = hint or f"logs/node-{self.rank}.log says more"
        nodes = [*failure.nodes, self.rank]
        self.record(replace(failure, reason=f"node {self.rank}: {failure.reason}; {hint}", nodes=nodes))

    def record(self, failure: Failure) -> None:
        """Record a failure, unless node 0 has told one: by now it may have begun the next attempt."""
        if self.told is None:
            self.run.fail(failure)

    def failure(self) -> Failure | None:
        """Return why this attempt is broken, or None. What node 0 has told counts, even if its record is gone again."""
        return self.told or self.run.failure()

    def raise_failure(self) -> None:
        """Raise RunFailed if the run is broken."""
        if failure := self.failure():
            raise RunFailed(failure.reason, failure.kind)
