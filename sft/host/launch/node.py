"""The node program: `python -m sft.host.launch.node --run runs/NAME --node-rank R`, the same under every launcher.

The nodes meet (meeting.py), and every node starts DeepSpeed's launcher for its own ranks at once: their imports take as
long as node 0 needs to make data and model ready. While they work a supervisor watches them. A node ends only when none
of its processes is left. It does not believe the launcher's exit code, which can be 0 with dead ranks: every rank
writes how it ended into the run directory (ranks.py).

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
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from sft import hostfile
from sft.errors import RunFailed, SettingsError, SftError, UserError, kind_of
from sft.failures import Kind, exit_in_words, kind_of_exit
from sft.host import limits, provenance
from sft.host.launch import interface, meeting, rank_variables
from sft.host.launch.heartbeat import Heartbeat
from sft.host.launch.hosts import by_hand
from sft.host.launch.link import Link, MasterLink, master_address
from sft.host.launch.processes import LAUNCHER
from sft.host.launch.signals import Signals
from sft.host.launch.supervisor import Supervisor
from sft.redaction import guard_tracebacks, redact
from sft.run import typed_json
from sft.run.directory import Run
from sft.run.records import Failure, NodeInfo, Prepared
from sft.settings import libraries, variables
from sft.settings.load import load


def main() -> None:
    """Run one node. Exit code 0: finished or stopped; 1: the run failed; 2: the user can fix it."""
    parser = argparse.ArgumentParser(description=__doc__)
    name = os.environ.get("SFT_RUN")  # compose cannot leave out an argument
    parser.add_argument(
        "--run", type=Path, default=variables.runs_path() / name if name else None, help="its directory"
    )
    rank = rank_variables.node_rank()
    parser.add_argument("--node-rank", type=int, default=rank, required=rank is None, help="0 is the master")
    arguments = parser.parse_args()
    guard_tracebacks()
    run_node(Run(arguments.run.resolve()) if arguments.run else None, arguments.node_rank)


@dataclass(frozen=True)
class Programs:
    """The modules that a node starts. `benchmarks/scale.py` has nodes without ranks."""

    prepare: str = "sft.trainer.prepare"
    ranks: str = LAUNCHER  # starts them, and ends when they have ended


PROGRAMS = Programs()


def run_node(run: Run | None, rank: int, programs: Programs = PROGRAMS) -> None:
    """Run one node of `run`, or of the run that node 0 opens. Exits with a code if something went wrong."""
    heard, link, opened = Signals(), Link(), contextlib.ExitStack()
    node: Node | None = None
    try:
        settings = run.settings() if run else load()
        link = meeting.start_link(settings, rank)
        if run is None and rank == 0:
            run = meeting.first_run(settings, opened)
        elif run is None:
            run = meeting.told_run(settings, link, heard)
            if run and os.environ.get(by_hand.COMPARED):
                by_hand.compare(run, settings, rank)
        if run:
            node = Node(run, rank, link, heard, programs)
            node.work()
    except SftError as error:
        if run and node is None and run.logs.is_dir() and not run.is_running():
            # A node that is at work says so itself.
            run.fail(Failure(kind=error.kind, reason=f"node {rank}: {error}", nodes=[rank]))
        print(redact(str(error)), file=sys.stderr, flush=True)
        if run is None and isinstance(link, MasterLink):
            link.refuse(str(error))
        sys.exit(error.exit_code)


class Node:
    """One node's share of a run, from meeting the others to the end of its last process."""

    def __init__(self, run: Run, rank: int, link: Link, heard: Signals, programs: Programs = PROGRAMS) -> None:
        """Read the run directory. Raises UserError if the hostfile or the rank is wrong."""
        self.run, self.rank, self.link, self.programs = run, rank, link, programs
        self.settings = run.settings()
        self.hosts = hostfile.read_hostfile(run.hostfile)
        if not 0 <= rank < len(self.hosts):
            nodes = len(self.hosts)
            raise UserError(f"--node-rank={rank}: the hostfile has {nodes} nodes; use 0 to {nodes - 1}")
        self.name, slots = list(self.hosts.items())[rank]
        self.ranks = range(rank * slots, (rank + 1) * slots)
        self.supervisor = Supervisor(run, self.settings, rank, self.ranks, link, heard)
        self.processes = self.supervisor.processes

    def work(self) -> None:
        """Meet the other nodes, prepare, train, clean up. Raises RunFailed, or UserError for what the user can fix."""
        lock = self.run.lock() if self.rank == 0 else None
        if self.rank == 0 and lock is None:
            raise UserError(f"{self.run.path}: is running already; `{self.run.command('monitor')}` shows it")
        well = False
        try:
            self.check_environment()
            self.introduce()
            hostfile.agree(self.settings.nodes, self.settings.gpus_per_node, self.hosts)
            if self.nodes_are_here():
                ranks = self.start_ranks()
                if self.inputs_are_ready():
                    self.train(ranks)
            well = not self.supervisor.end_now
        except BaseException as error:
            failure = Failure(kind=kind_of(error), reason=f"node {self.rank}: {error}", nodes=[self.rank])
            self.supervisor.record(failure)
            raise
        finally:
            self.leave(well, lock)

    def leave(self, well: bool, lock: TextIO | None) -> None:
        """End what is left of this node's processes, and record how the run ended if no other node does."""
        self.processes.end()
        log = self.supervisor.log
        if log.lost:
            log.write(f"{log.lost} lines could not be written to the log or to standard output")
        failure = self.run.failure()
        # The first node says how the run ended; another one does if the first is gone.
        if failure and not self.run.ended and (self.rank == 0 or not self.run.is_running()):
            self.run.end_as_failed(failure)
        self.supervisor.pass_on_failure()  # the others may need longer to end, until after the next attempt has begun
        self.link.close(well)
        if lock:
            lock.close()

    def check_environment(self) -> None:
        """Raise SettingsError for variables with which no rank could start here: this host's may be its own."""
        found = libraries.problems(os.environ) + interface.problems(os.environ, self.settings.device == "cuda")
        if found:
            raise SettingsError(found)
        limits.raise_all()
        for line in limits.lines():
            self.supervisor.log.write(f"warning: {line}; {limits.REMEDY}")
            if self.rank == 0:
                self.run.warn(f"{line}; {limits.REMEDY}")

    def introduce(self) -> None:
        """Write what this node is, for the monitor: one machine's cards may belong to several nodes."""
        self.supervisor.ranks.forget()
        cards = [card.uuid for card in self.processes.cards()]
        about = NodeInfo(name=self.name, host=socket.gethostname(), ranks=list(self.ranks), gpus=cards)
        typed_json.write(self.run.node_file(self.rank), about)

    def nodes_are_here(self) -> bool:
        """Wait for the other nodes. Return False if the run is stopped before they connect."""
        deadline, warned = time.monotonic() + self.settings.rendezvous_timeout_s, set[str]()
        limit = f"RENDEZVOUS_TIMEOUT_S={self.settings.rendezvous_timeout_s}"
        if isinstance(self.link, MasterLink):
            self.link.name_run(self.run.name)
        while missing := meeting.missing_nodes(self.link, self.run):
            self.supervisor.look()
            # Node 0 alone decides whether a stop comes before the ranks: otherwise one node could continue without
            # another.
            if self.rank == 0 and self.run.stop_reason() is not None:
                self.run.update_state("stopped")
            if self.must_end():
                return False
            if reason := meeting.no_meeting(self.settings, missing, deadline, self.link):
                raise UserError(reason) if meeting.refusals(self.link, missing) else RunFailed(reason, "lost_node")
            for reason in set(meeting.refusals(self.link, missing)) - warned:
                warned.add(reason)
                self.run.warn(f"{reason}; waiting for it until {limit} seconds are over")
        return True

    def start_ranks(self) -> subprocess.Popen[str]:
        """Start DeepSpeed's launcher with this node's ranks, which import what they need while the inputs are prepared.

        They wait for `prepared.json` before they do anything. If it never comes, they are ended with this node.
        """
        # What `deepspeed --hostfile … --no_ssh` starts, after importing everything once more to read the hostfile.
        world = {name: list(range(slots)) for name, slots in self.hosts.items()}
        return self.processes.start(
            self.programs.ranks,
            f"--world_info={base64.urlsafe_b64encode(json.dumps(world).encode()).decode()}",
            f"--node_rank={self.rank}",
            f"--master_addr={master_address()}", f"--master_port={self.settings.master_port}",
            "--module", "sft.trainer.main", "--run", str(self.run.path),
        )  # fmt: skip

    def inputs_are_ready(self) -> bool:
        """Prepare data and model on node 0, or wait for them. Return False if the run is stopped meanwhile."""
        if self.rank == 0:
            return self.prepare()
        while not self.run.prepared.is_file():
            self.supervisor.look()
            if self.must_end():
                return False
        return True

    def must_end(self) -> bool:
        """Whether this node is to end before its ranks train. Raises RunFailed if the run is broken."""
        if self.supervisor.end_now:
            return True
        if not self.supervisor.is_due():
            return False
        if self.run.ended:
            return True
        self.supervisor.raise_failure()
        return False

    def prepare(self) -> bool:
        """Run the program that prepares the inputs. Return False if the run is stopped meanwhile."""
        self.run.update_state("preparing")
        provenance.note_machine(self.run)
        process = self.processes.start(self.programs.prepare, "--run", str(self.run.path))
        self.supervisor.see_through(process, until_stop=True)
        if self.run.prepared.is_file():
            provenance.note_inputs(self.run)
            prepared = typed_json.read(self.run.prepared, Prepared)
            for line in prepared.template.said if prepared.template else []:
                self.supervisor.log.write(f"chat template: {line}")
            for line in prepared.unused:
                self.supervisor.log.write(f"warning: {line}")
            for line in [*prepared.said, *provenance.since_it_began(self.run)]:
                self.supervisor.log.write(f"not as the run began: {line}")
            return True
        if not self.supervisor.end_now and self.run.stop_reason() is None:
            if process.returncode < 0:
                self.supervisor.fail(self.supervisor.ranks.killed("preparing", process.returncode))
            else:
                reason = f"preparing {exit_in_words(process.returncode)}"
                self.supervisor.fail(Failure(kind=kind_of_exit(process.returncode), reason=reason))
            self.supervisor.raise_failure()
        self.run.update_state("stopped")
        return False

    def train(self, process: subprocess.Popen[str]) -> None:
        """Wait until DeepSpeed's launcher and this node's ranks have ended. Raises RunFailed."""
        ranks = self.supervisor.ranks
        self.supervisor.see_through(process, heartbeat=Heartbeat(self.run, self.settings.step_timeout_s))
        self.processes.drain()
        ranks.look()
        if ranks.are_done:
            return
        if self.supervisor.end_now:
            if self.rank == 0:
                self.run.update_state("stopped")
            return
        if not ranks.broken:  # the launcher itself is gone, and its ranks with it: sft/trainer/process.py
            reason = f"the launcher {exit_in_words(process.returncode)} before its ranks were done"
            kind: Kind = "killed" if process.returncode < 0 else "crash"
            self.supervisor.fail(Failure(kind=kind, reason=reason))
        self.supervisor.wait_for_reason()
        self.supervisor.raise_failure()


if __name__ == "__main__":
    main()
