"""The node program: `python -m sft.host.launch.node --run runs/NAME --node-rank R`, the same under every launcher.

The nodes meet (link.py), and every node starts DeepSpeed's launcher for its own ranks: what they import takes as long
as node 0 takes to make data and model ready. A node writes their log, and ends only when none of its processes
is left. No exit code of the launcher is believed: it can be 0 with dead ranks. Every rank writes how it ended into the
run directory (ranks.py).

Without `--run`, as in `docker compose up` by hand, node 0 opens the run itself and tells the others its name.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from sft import hostfile
from sft.errors import RunFailed, SettingsError, SftError, UserError, kind_of, wrong
from sft.failures import Kind, exit_in_words, kind_of_exit
from sft.host import provenance
from sft.host.folders import make_folders
from sft.host.launch.decide import decide
from sft.host.launch.heartbeat import Heartbeat
from sft.host.launch.link import Link, MasterLink, WorkerLink, master_address
from sft.host.launch.log import Log
from sft.host.launch.open import open_run
from sft.host.launch.processes import LAUNCHER, Processes, kill
from sft.host.launch.ranks import REASON_WAIT_S, Ranks
from sft.host.launch.signals import Signals
from sft.redaction import guard_tracebacks, redact
from sft.run import typed_json
from sft.run.directory import Run
from sft.run.records import Failure, NodeInfo, Prepared
from sft.settings import variables
from sft.settings.fields import Settings
from sft.settings.load import load

POLL_S = 0.2
FAILURE_GRACE_S = 10.0  # after a failure the other ranks get this long to write their stacks and end by themselves


def main() -> None:
    """Run one node. Exit code 0: finished or stopped; 1: the run failed; 2: the user can fix it."""
    parser = argparse.ArgumentParser(description=__doc__)
    name = os.environ.get("SFT_RUN")  # compose cannot leave out an argument
    parser.add_argument(
        "--run", type=Path, default=variables.runs_path() / name if name else None, help="its directory"
    )
    parser.add_argument("--node-rank", type=int, required=True, help="0 is the master")
    arguments = parser.parse_args()
    run = Run(arguments.run.resolve()) if arguments.run else None
    guard_tracebacks()
    heard, link, opened = Signals(), Link(), contextlib.ExitStack()
    node: Node | None = None
    try:
        settings = run.settings() if run else load()
        link = start_link(settings, arguments.node_rank)
        run = run or (first_run(settings, opened) if arguments.node_rank == 0 else told_run(settings, link, heard))
        if run:
            node = Node(run, arguments.node_rank, link, heard)
            node.work()
    except SftError as error:
        if run and node is None and run.logs.is_dir() and not run.is_running():
            # A node that is at work says so itself.
            run.fail(Failure(kind=error.kind, reason=f"node {arguments.node_rank}: {error}"))
        print(redact(str(error)), file=sys.stderr, flush=True)
        if run is None and isinstance(link, MasterLink):
            link.refuse(str(error))
        sys.exit(error.exit_code)


def start_link(settings: Settings, rank: int) -> Link:
    """Return the line to the other nodes. Raises SettingsError where its port is taken."""
    port = hostfile.link_port(settings.master_port)
    if settings.nodes == 1:
        return Link()
    if rank:
        return WorkerLink(rank, port)
    try:
        return MasterLink(settings.nodes, port)
    except OSError as error:
        what = f"the port behind it, {port}, where the nodes meet, cannot be had ({error.strerror})"
        raise SettingsError([wrong("MASTER_PORT", settings.master_port, what, "choose another port")]) from None


def first_run(settings: Settings, opened: contextlib.ExitStack) -> Run:
    """Return the run that these settings ask for, kept open by node 0 itself in `opened`. Raises SettingsError."""

    def say(line: str) -> None:
        print(line, flush=True)

    decision = decide(settings, in_container=True)
    make_folders(settings)
    for line in decision.lines:
        say(line)
    return opened.enter_context(open_run(decision, say))


def told_run(settings: Settings, link: Link, heard: Signals) -> Run | None:
    """Return the run that node 0 works on, or None where this node is stopped before. Raises RunFailed."""
    assert isinstance(link, WorkerLink)
    deadline = time.monotonic() + settings.rendezvous_timeout_s
    while (name := link.run_name()) is None:
        if heard.end_now or (heard.who() and not link.peers):
            return None
        if reason := link.refusal():
            raise UserError(f"node 0: {reason}")
        if reason := link.lost() or no_meeting(settings, [0], deadline):
            raise RunFailed(f"node {link.rank}: {reason}", "lost_node")
        link.poll()
        time.sleep(POLL_S)
    return Run(settings.runs_path.resolve() / name)


def no_meeting(settings: Settings, missing: list[int], deadline: float) -> str:
    """Return why the nodes did not meet once the time is over, otherwise ""."""
    if time.monotonic() < deadline:
        return ""
    nodes = f"node{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
    at = f"{master_address()}:{hostfile.link_port(settings.master_port)}"
    return f"{nodes} did not come to {at} within RENDEZVOUS_TIMEOUT_S={settings.rendezvous_timeout_s} seconds"


class Node:
    """One node's share of a run."""

    def __init__(self, run: Run, rank: int, link: Link, heard: Signals) -> None:
        """Read the run directory. Raises UserError for a hostfile or a rank that cannot be right."""
        self.run, self.rank, self.link, self.heard = run, rank, link, heard
        self.settings = run.settings()
        slots = hostfile.read_hostfile(run.hostfile)
        if not 0 <= rank < len(slots):
            raise UserError(f"--node-rank={rank}: the hostfile has {len(slots)} nodes; use 0 to {len(slots) - 1}")
        self.hosts, self.slots = slots, list(slots.values())[rank]
        self.log = Log(run.logs / f"node-{rank}.log")
        self.alive_file = os.environ.get("NODE_ALIVE_FILE")  # for a health check
        self.lost_at: float | None = None
        # A clock that is set meanwhile ends no run: what has passed is asked of it once.
        now = time.time()
        hours_passed = max(0.0, now - (run.state().hours_from or now)) / 3600
        self.ends_at = time.monotonic() + 3600 * (self.settings.max_hours - hours_passed)
        numbers = range(rank * self.slots, (rank + 1) * self.slots)
        self.ranks = Ranks(run, numbers)
        self.processes = Processes(run, numbers, self.log, self.ranks.read_line)

    def work(self) -> None:
        """Meet the other nodes, prepare, train, clean up. Raises RunFailed, or UserError for what the user can fix."""
        lock = self.run.lock() if self.rank == 0 else None
        if self.rank == 0 and lock is None:
            raise UserError(f"{self.run.path}: is running already; `{self.run.command('monitor')}` shows it")
        well = False
        try:
            self.introduce()
            hostfile.agree(self.settings.nodes, self.settings.gpus_per_node, self.hosts)
            if self.nodes_are_here():
                ranks = self.start_ranks()
                if self.inputs_are_ready():
                    self.train(ranks)
            well = not self.end_now
        except BaseException as error:
            self.run.fail(Failure(kind=kind_of(error), reason=f"node {self.rank}: {error}"))
            raise
        finally:
            self.processes.end()
            if self.log.lost:
                self.log.write(f"{self.log.lost} lines could not be written to the log or to standard output")
            failure = self.run.failure()
            # The first node says how the run ended; another one does if the first is gone.
            if failure and not self.run.ended and (self.rank == 0 or not self.run.is_running()):
                self.run.end_as_failed(failure)
            self.link.close(well)
            if lock:
                lock.close()

    def introduce(self) -> None:
        """Write what this node is, for the monitor: one machine's cards may belong to several nodes."""
        about = NodeInfo(
            name=list(self.hosts)[self.rank],
            host=socket.gethostname(),
            ranks=list(self.ranks.numbers),
            gpus=[card.uuid for card in self.processes.cards()],
        )
        typed_json.write(self.run.node_file(self.rank), about)

    # What every wait looks at

    def look(self) -> None:
        """Pass on what asks for a stop, notice a lost node, and show that this program is alive."""
        if self.alive_file:
            with contextlib.suppress(OSError):  # a health check that fails is less than a run that ends
                Path(self.alive_file).touch()
        who = self.heard.who()
        if (reason := f"{who} {self.rank}" if who else self.time_is_over()) and self.run.stop_reason() is None:
            self.run.request_stop(reason)
        self.link.poll()
        if (lost := self.link.lost()) and self.run.failure() is None:
            # Whoever knows why it was lost says so first: that node itself, or what started it.
            self.lost_at = self.lost_at or time.monotonic()
            if time.monotonic() - self.lost_at > REASON_WAIT_S:
                self.fail(Failure(kind="lost_node", reason=lost), "logs/ and `make test-env` may tell why")
        time.sleep(POLL_S)

    def time_is_over(self) -> str | None:
        """Return in words that MAX_HOURS are over, or None."""
        hours = self.settings.max_hours
        if not hours or self.rank or time.monotonic() < self.ends_at:
            return None
        return f"MAX_HOURS={hours:g} are over"

    @property
    def end_now(self) -> bool:
        """Whether this node is to end without saving."""
        return self.heard.end_now

    def raise_failure(self) -> None:
        """Raise RunFailed if the run is broken."""
        if failure := self.run.failure():
            raise RunFailed(failure.reason, failure.kind)

    def nodes_are_here(self) -> bool:
        """Wait for the other nodes; False where the run is stopped before."""
        deadline = time.monotonic() + self.settings.rendezvous_timeout_s
        if isinstance(self.link, MasterLink):
            self.link.name_run(self.run.name)
        while missing := self.missing_nodes():
            self.look()
            # Node 0 alone decides whether a stop comes before the ranks: no node must go on without another.
            if self.rank == 0 and self.run.stop_reason() is not None:
                self.run.update_state("stopped")
            if self.end_now or self.run.ended:
                return False
            if reason := no_meeting(self.settings, missing, deadline):
                raise RunFailed(reason, "lost_node")
            self.raise_failure()
        return True

    def missing_nodes(self) -> list[int]:
        """Return the nodes that this one still has to meet."""
        if isinstance(self.link, MasterLink):
            return self.link.missing()
        if isinstance(self.link, WorkerLink):
            if (name := self.link.run_name()) not in (None, self.run.name):
                raise UserError(f"--run={self.run.path}: node 0 works on {name}; start every node with the same run")
            return [0] if name is None else []
        return []

    # Preparing

    def inputs_are_ready(self) -> bool:
        """Make data and model ready on node 0, wait for them elsewhere; False where the run is stopped before."""
        if self.rank == 0:
            return self.prepare()
        while not self.run.prepared.is_file():
            self.look()
            if self.end_now or self.run.ended:
                return False
            self.raise_failure()
        return True

    def prepare(self) -> bool:
        """Run the program that prepares the inputs; False where the run is stopped while it works."""
        self.run.update_state("preparing")
        provenance.note_machine(self.run)
        process = self.processes.start("sft.trainer.data.prepare", "--run", str(self.run.path))
        self.see_through(process, until_stop=True)
        if self.run.prepared.is_file():
            provenance.note_inputs(self.run)
            for line in [*typed_json.read(self.run.prepared, Prepared).said, *provenance.since_it_began(self.run)]:
                self.log.write(f"not as the run began: {line}")
            return True
        if self.end_now or self.run.stop_reason() is not None:
            self.run.update_state("stopped")
            return False
        reason = f"preparing {exit_in_words(process.returncode)}"
        self.fail(Failure(kind=kind_of_exit(process.returncode), reason=reason), "logs/node-0.log says more")
        self.raise_failure()
        raise AssertionError("a run that has failed has a reason")

    # Training

    def start_ranks(self) -> subprocess.Popen[str]:
        """Start DeepSpeed's launcher with this node's ranks, which import what they need while the inputs are prepared.

        They wait for `prepared.json` before they do anything. Where it never comes, they are ended with this node.
        """
        # What `deepspeed --hostfile … --no_ssh` starts, after importing everything once more to read the hostfile.
        world = {name: list(range(slots)) for name, slots in self.hosts.items()}
        return self.processes.start(
            LAUNCHER,
            f"--world_info={base64.urlsafe_b64encode(json.dumps(world).encode()).decode()}",
            f"--node_rank={self.rank}",
            f"--master_addr={master_address()}", f"--master_port={self.settings.master_port}",
            "--module", "sft.trainer.main", "--run", str(self.run.path),
        )  # fmt: skip

    def train(self, process: subprocess.Popen[str]) -> None:
        """See DeepSpeed's launcher with this node's ranks through to the end. Raises RunFailed."""
        self.see_through(process, heartbeat=Heartbeat(self.run, self.settings.step_timeout_s))
        self.processes.drain()
        self.ranks.look()
        if self.ranks.are_done:
            return
        if self.end_now:
            if self.rank == 0:
                self.run.update_state("stopped")
            return
        if not self.ranks.broken:  # the launcher itself is gone, and its ranks with it: sft/trainer/process.py
            reason = f"the launcher {exit_in_words(process.returncode)} before its ranks were done"
            kind: Kind = "killed" if process.returncode < 0 else "crash"
            self.fail(Failure(kind=kind, reason=reason), f"logs/node-{self.rank}.log says more")
        while not self.run.failure() and not self.end_now:
            self.judge_ranks()
            self.look()
        self.raise_failure()

    def see_through(
        self, process: subprocess.Popen[str], until_stop: bool = False, heartbeat: Heartbeat | None = None
    ) -> None:
        """Wait for a program's end; end it at once where that is asked for, and some time after a failure."""
        failed_at = None
        while process.poll() is None:
            self.look()
            self.judge_ranks()
            if heartbeat and (silence := heartbeat.failure()):
                self.fail(silence, "the stacks of all ranks are in logs/")
            if failed_at is None and self.run.failure():
                failed_at = time.monotonic()
                self.processes.write_stacks()
            stopped = self.end_now or (until_stop and self.run.stop_reason() is not None)
            if stopped or (failed_at and time.monotonic() - failed_at > FAILURE_GRACE_S):
                kill(process)

    def judge_ranks(self) -> None:
        """Fail the run if a rank of this node broke, and nobody has said a better reason in time."""
        self.ranks.look()
        if self.ranks.broke_at is None:
            return
        failure, wait_s = self.ranks.failure()
        if time.monotonic() - self.ranks.broke_at >= wait_s:
            self.fail(failure, f"logs/node-{self.rank}.log says more")

    def fail(self, failure: Failure, hint: str) -> None:
        """Note a failure that this node has found, with where to read more."""
        self.run.fail(replace(failure, reason=f"node {self.rank}: {failure.reason}; {hint}"))


if __name__ == "__main__":
    main()
