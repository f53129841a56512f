"""The launcher that submits a run to Slurm, and what the run's job starts its nodes with."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sft.errors import SettingsError, UserError, wrong
from sft.host.check import Check
from sft.host.folders import make_folders
from sft.host.gpus import Gpu
from sft.host.launch import signals
from sft.host.launch.offer import PARTITION, Offer
from sft.host.launch.slurm import cluster, queue, script
from sft.host.plan.plan import Plan
from sft.run import typed_json
from sft.run.directory import Run
from sft.run.records import Job
from sft.settings.fields import Settings
from sft.settings.kinds import Launched
from sft.settings.stages import Decided

COMMANDS = ("sbatch", "srun", "scontrol", "sinfo", "scancel")
FIRST_PORT, PORTS = 20_000, 12_000  # below those that Linux gives to outgoing connections


class Slurm:
    """The launcher that puts a run into Slurm's queue."""

    name: Launched = "slurm"
    place = "of a Slurm job"
    suits = "LAUNCHER=slurm"
    queues = True
    on_this_machine = False
    own_packages = False

    def problem(self) -> tuple[str, str] | None:
        """Return why nothing can be submitted from here, and the remedy; None if it can."""
        if missing := [command for command in COMMANDS if not shutil.which(command)]:
            return f"{missing[0]} is not installed here", "run it on a login node of the cluster, or set LAUNCHER=local"
        try:
            queue.call("sinfo", "--noheader", "--format=%P")
        except UserError as error:
            return str(error), "ask those who run the cluster"
        return None

    def objection(self, settings: Settings, has_gpu: bool) -> str:
        return "LAUNCHER=slurm is not set"

    def offer(self, settings: Settings, here: list[Gpu]) -> Offer:
        """Return what the partition's nodes have. Raises UserError."""
        self.kinds = kinds = cluster.node_kinds(settings)
        ranks = settings.gpus_per_node
        there = sum(kind.number for kind in kinds)
        if there < settings.nodes:
            what = f"the partition has {there} nodes"
            raise SettingsError([wrong("NODES", settings.nodes, what, f"use at most {there}, or another partition")])
        return Offer(
            gpus=cluster.gpus_of(kinds, ranks),
            cores=sum(kind.number * kind.cores for kind in kinds),
            host_gib=min((kind.memory_gib for kind in kinds), default=0.0),
            where=PARTITION,
        )

    def cards(self, settings: Settings, here: list[Gpu]) -> list[Gpu]:
        return here

    def check(self, settings: Settings) -> None:
        """Nothing: a login node may have none of the packages that the nodes have."""

    def checks(self, settings: Settings) -> Iterator[Check]:
        """Yield the checks of the commands and the partition. The nodes themselves check before they train."""
        if problem := self.problem():
            yield Check("Slurm", "failure", *problem)
            return
        try:
            offer = self.offer(settings, [])
        except UserError as error:
            yield Check.from_problem("partition", str(error))
            return
        nodes = sum(kind.number for kind in self.kinds)
        what = f"{nodes} nodes, {offer.cores} cores, {len(offer.gpus)} GPUs where a node has enough of them"
        yield Check("partition", "ok", what)

    def set_up(self, settings: Settings, made: Sequence[Path], console: Console) -> None:
        """Nothing: its nodes use the packages of this installation."""

    def prepare(self, settings: Decided, cards: Sequence[Gpu], console: Console) -> int:
        """Make the folders. Return MASTER_PORT as it is: the job takes a port by its own number."""
        make_folders(settings)
        return settings.master_port

    def script(self, run: Run, settings: Decided, plan: Plan | None) -> str:
        """Return the text of a run's job script."""
        return script.written(run, settings, self.kinds, plan)

    def start(self, run: Run) -> Queued:
        """Submit the run's job script. Raises UserError if Slurm refuses it."""
        # A job gets the environment of the program that submits it, and reads the keys in .env itself.
        number = queue.submit(run.job_script)
        try:
            typed_json.write(run.job, Job(number=number, submitted_at=time.time()))
            run.update_state("queued")
        except OSError as error:  # such as a full disk: nobody would know the job
            queue.cancel(number)
            what = f"{run.job}: cannot be written ({error.strerror}), so job {number} was cancelled"
            raise UserError(f"{what}; make room, then `{run.command('resume')}`") from None
        return Queued(number)


@dataclass
class Queued:
    """A job as the nodes of a run."""

    number: int

    def codes(self) -> list[int | None]:
        """Return [None] as long as the job waits or is at work, then [0]: the run directory says how it ended.

        A controller that does not answer says nothing about the job.
        """
        try:
            state = queue.state_of(self.number)
        except UserError:
            return [None]
        return [None if state and state.is_active else 0]

    def end_now(self) -> None:
        """End the job without saving."""
        queue.cancel(self.number)


class Step:
    """The launcher inside the job: it starts the nodes as the tasks of one job step."""

    def __init__(self, settings: Decided, number: int) -> None:
        self.settings, self.number = settings, number

    def start(self, run: Run) -> StepNodes:
        """Start a node program on every node of the job. Raises UserError."""
        first = queue.hosts()[0]
        environment = {**os.environ, "MASTER_ADDR": reachable(first)}
        command = [
            "srun",
            f"--nodes={self.settings.nodes}", f"--ntasks={self.settings.nodes}", "--ntasks-per-node=1",
            *cores_of_task(),
            "--export=ALL",  # after `sbatch --export=NONE` srun would give the nodes nothing either
            # A node that breaks has said why by then; the others must not hold their GPUs for a run that has failed.
            "--kill-on-bad-exit=1",
            # The node programs write their own logs; what else they say is an error before that.
            "--output=/dev/null", f"--error={run.logs.absolute()}/node-%n.log", "--open-mode=append",
            sys.executable, "-m", "sft.host.launch.node", "--run", str(run.path.absolute()),
        ]  # fmt: skip
        with signals.blocked():  # Slurm signals the tasks themselves: srun only waits for them
            return StepNodes(
                self.number,
                subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True),
            )


@dataclass
class StepNodes:
    """Started nodes that are tasks of a job step."""

    number: int  # the job's
    process: subprocess.Popen[bytes]  # srun

    def codes(self) -> list[int | None]:
        """Return the highest exit code of the nodes as the only one, None while one of them runs."""
        return [self.process.poll()]

    def end_now(self) -> None:
        """End the nodes without saving."""
        queue.call("scancel", f"--signal={signal.SIGQUIT.name}", str(self.number))


def cores_of_task() -> list[str]:
    """Return srun's option for the cores of a task: since Slurm 22.05 it no longer takes that of the job."""
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    return [f"--cpus-per-task={cores}"] if cores else []


def port_of(number: int) -> int:
    """Return the MASTER_PORT of a job: two jobs may share a node, and the next port is taken too."""
    return FIRST_PORT + 2 * number % PORTS


def reachable(node: str) -> str:
    """Return a name or an address under which the other nodes reach a node."""
    try:
        address = socket.gethostbyname(node)
    except OSError:
        return queue.address_of(node)
    # Debian gives a machine's own name to 127.0.1.1, which only the machine itself understands.
    return queue.address_of(node) if address.startswith("127.") else node
