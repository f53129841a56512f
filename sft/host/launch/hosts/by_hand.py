"""`LAUNCHER=hosts` without HOSTS: the same command on every host, with NODE_RANK and MASTER_ADDR.

Schedulers set these under names of their own (rank_variables.py). The first node opens the run, as on one machine; the
others are told its name, and compare themselves with what the first one has written into the run directory.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from sft import hostfile
from sft.errors import RunFailed, SettingsError, UserError, shown, wrong
from sft.failures import POLICIES
from sft.host.check import Check
from sft.host.folders import make_folders
from sft.host.gpus import Gpu
from sft.host.launch import ports, rank_variables, signals
from sft.host.launch.hosts import look, prove
from sft.host.launch.hosts.messages import Facts
from sft.host.launch.local import LocalNodes
from sft.host.launch.offer import Offer
from sft.run import files
from sft.run.directory import Run
from sft.run.records import Failure
from sft.run.typed_json import WrongType
from sft.settings import rules
from sft.settings.fields import Settings
from sft.settings.kinds import Launched
from sft.settings.stages import Decided

# In the environment of a node that is to compare itself with the first one, and whether with its settings.
COMPARED, WITH_SETTINGS, WITHOUT_SETTINGS = "SFT_BY_HAND", "settings", "code"
AGAIN_S = 60.0  # within which the first node begins a further attempt, if there is one


class ByHand:
    """The launcher on the first node: it starts that node alone."""

    name: Launched = "hosts"
    place = "started by hand, or by a scheduler"
    suits = "LAUNCHER=hosts"
    on_this_machine = True
    own_packages = False
    queues = False

    def problem(self) -> tuple[str, str] | None:
        if rank_variables.node_rank() is None:
            if said := os.environ.get(name := rank_variables.ranked_by()):
                return f"{name}={shown(said)} is not the number of a node", "count from 0, on the first host"
            remedy = "name the machines, as in HOSTS=hostA,hostB, or call this on each with NODE_RANK and MASTER_ADDR"
            return "HOSTS is empty", remedy
        if not rank_variables.master_address():
            return "MASTER_ADDR is not set", "name the first host, as in MASTER_ADDR=hostA, on all of them"
        return None

    def objection(self, settings: Settings, has_gpu: bool) -> str:
        return "LAUNCHER=hosts is not set"

    def offer(self, settings: Settings, here: list[Gpu]) -> Offer:
        """Return what all nodes have if each has what this one has. Raises SettingsError."""
        check_place(settings)
        mine = Offer.of_this_machine(here[: settings.gpus_per_node])
        return Offer(mine.gpus * settings.nodes, mine.cores * settings.nodes, where="on nodes like this one")

    def cards(self, settings: Settings, here: list[Gpu]) -> list[Gpu]:
        return here

    def check(self, settings: Settings) -> None:
        """Nothing: each node finds out for itself."""

    def checks(self, settings: Settings) -> Iterator[Check]:
        """Yield nothing: one host cannot look at the others here."""
        yield from ()

    def set_up(self, settings: Settings, made: Sequence[Path], console: Console) -> None:
        """Nothing: `make setup` is called on each host."""

    def prepare(self, settings: Decided, cards: Sequence[Gpu], console: Console) -> int:
        """Make the folders and claim the ports, which the other nodes must know. Raises SettingsError."""
        make_folders(settings)
        claim = ports.claim_pair(settings.master_port)
        if claim is None:
            what, remedy = "this port or the next one is in use", "choose another one, on all hosts"
            raise SettingsError([wrong("MASTER_PORT", settings.master_port, what, remedy)])
        address = rank_variables.master_address()
        if reason := prove.elsewhere(address, settings.master_port):
            what = f"does not lead to this host, {socket.gethostname()}, which is the first node ({reason})"
            remedy = "name this host, as all others see it, or give NODE_RANK=0 to the host that it names"
            raise SettingsError([wrong(rank_variables.named_by(), address, what, remedy)])
        self.claim, self.settings = claim, settings
        return settings.master_port

    def start(self, run: Run) -> LocalNodes:
        """Note what this host is, and start its node."""
        files.write_json(run.host, look.look([]).to_json())
        with (run.logs / "node-0.log").open("ab") as log, signals.blocked():
            process = subprocess.Popen(
                [sys.executable, "-m", "sft.host.launch.node", "--run", str(run.path), "--node-rank", "0"],
                env={**os.environ, **self.settings.secrets()},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        return LocalNodes([process])


def check_place(settings: Settings) -> None:
    """Raise SettingsError if the variables that tell a node its place contradict the settings."""
    rank, told = rank_variables.node_rank(), rank_variables.nodes()
    problems = []
    if several := rank_variables.several_on_a_node():
        what = "is more than one program on a node, and each would start a rank for every GPU"
        problems.append(wrong(several[0], several[1], what, f"start one on each: {several[2]}"))
    elif told and told[1] != settings.nodes:
        problems.append(wrong("NODES", settings.nodes, f"{told[0]} says {told[1]}", f"set NODES={told[1]}"))
    elif rank is not None and rank >= settings.nodes:
        what = f"NODES={settings.nodes} nodes have the ranks 0 to {settings.nodes - 1}"
        problems.append(wrong("NODE_RANK", rank, what, "count from 0"))
    if problems:
        raise SettingsError(problems)


# The other nodes


def is_for_another(launcher: str, hosts: str) -> bool:
    """Whether a run is to be started on a node that is not the first one."""
    return launcher == "hosts" and not hosts and bool(rank_variables.node_rank())


def join(settings: Settings, console: Console, compared: str = WITH_SETTINGS) -> None:
    """Be a node of the run that the first node opens, in each of its attempts. Raises SftError."""
    if problem := ByHand().problem():
        raise SettingsError([wrong("LAUNCHER", "hosts", *problem)])
    check_place(settings)
    address = rank_variables.master_address()
    console.print(f"node {rank_variables.node_rank()} of {settings.nodes}: waiting for the first node, {address}")
    while True:
        code = node(settings, compared)
        if code == 0:
            return
        if code == POLICIES["user"].exit_code:
            raise UserError("the run did not start: see above")
        if not begins_again(address, hostfile.link_port(settings.master_port)):
            raise RunFailed("the run has failed: see above, and `make monitor`")
        console.print("the first node starts the run again")


def node(settings: Settings, compared: str) -> int:
    """Run the node program for one attempt. Return its exit code."""
    with signals.noted() as heard:
        process = subprocess.Popen(
            [sys.executable, "-m", "sft.host.launch.node"],
            env={**os.environ, **settings.secrets(), COMPARED: compared},
            stdin=subprocess.DEVNULL,
        )
        passed = False
        while (code := process.poll()) is None:
            if heard.at_once:
                process.send_signal(signal.SIGQUIT)
            elif heard.stop and not passed:
                passed = True
                process.terminate()
            time.sleep(0.2)
    return code


def begins_again(address: str, port: int) -> bool:
    """Whether the first node listens again within AGAIN_S."""
    deadline = time.monotonic() + AGAIN_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((address, port), 2.0):
            return True
        time.sleep(1.0)
    return False


def compare(run: Run, settings: Settings, rank: int) -> None:
    """Fail the run, and raise SettingsError, if this host differs from the first one in what has to be the same."""
    name, found = socket.gethostname(), files.read_json(run.host)
    try:
        first = Facts.from_json(found)
    except WrongType as error:
        lines = [f"{name}: does not understand {run.host} ({error}); bring the project to the same state there"]
    else:
        lines = [line.removeprefix("HOSTS=") for line in look.differences(name, look.look([]), first.host, first)]
        if os.environ.get(COMPARED) == WITH_SETTINGS:
            lines += other_settings(run, settings, name, first.host)
    if lines:
        run.fail(Failure(kind="user", reason="\n".join(lines)))
        raise SettingsError(lines)


def other_settings(run: Run, settings: Settings, name: str, first: str) -> list[str]:
    """Return a line for every setting that decides what is trained and is not the same on both hosts."""
    before = run.settings()
    changed = rules.changed(settings, Decided.of(before, run_name=settings.run_name))
    remedy = "give the command the same settings on every host, or share .env"
    return [
        wrong(change.name, change.now, f"so on {name}, and {change.then} on {first}", remedy)
        for change in changed
        if change.now not in (None, "auto")  # the first node has decided these
    ]
