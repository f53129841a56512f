"""The launcher that starts a run's nodes on machines that ssh reaches."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from sft.errors import SettingsError, wrong
from sft.host.check import Check
from sft.host.folders import make_folders
from sft.host.gpus import Gpu
from sft.host.launch import open_files
from sft.host.launch.hosts import checks, compare, look, shared
from sft.host.launch.hosts.agent import END
from sft.host.launch.hosts.messages import Request
from sft.host.launch.hosts.ssh import SSH_FAILED, Agent, agents
from sft.host.launch.offer import HOSTS, Offer
from sft.host.launch.word import WORD
from sft.nouns import counted
from sft.run.directory import Run
from sft.run.records import Failure
from sft.settings import hosts
from sft.settings.fields import FOLDERS, Settings
from sft.settings.hosts import Host
from sft.settings.kinds import Launched
from sft.settings.stages import Decided

NAMED = 8  # hosts that are named; of more, the first and the last
PIPES = 4  # to and from the ssh of a host, and its log
LOST_WAIT_S = 60.0  # for a better reason than ssh's


class Hosts:
    """The launcher that starts node programs with ssh."""

    name: Launched = "hosts"
    place = "on hosts of their own"
    suits = "HOSTS is set"
    on_this_machine = False
    own_packages = False
    queues = False

    def problem(self) -> tuple[str, str] | None:
        if not shutil.which("ssh"):
            return "ssh is not installed here", "install it (Debian and Ubuntu: sudo apt install openssh-client)"
        return None

    def objection(self, settings: Settings, has_gpu: bool) -> str:
        return "HOSTS is not set"

    def offer(self, settings: Settings, here: list[Gpu]) -> Offer:
        """Ask the hosts what they have. Raises UserError with a line for each that does not answer."""
        self.hosts = hosts.parse(settings.hosts)
        if not self.hosts:
            raise SettingsError([wrong("HOSTS", "", "is empty", "name the machines, as in HOSTS=hostA,hostB")])
        names = [host.text for host in self.hosts]
        self.place = f"on {', '.join(names)}" if len(names) <= NAMED else f"on {names[0]} to {names[-1]}"
        open_files.allow(
            PIPES * len(names), "HOSTS", f"{names[0]},…", f"the task, which has {len(names)} ssh connections,"
        )
        self.facts = compare.facts_of(self.hosts)
        slots = settings.gpus_per_node
        cards = [[card.gpu(index) for index, card in enumerate(facts.cards)] for facts in self.facts]
        if settings.device != "cpu" and any(cards):
            few = [
                wrong(
                    "GPUS_PER_NODE",
                    slots,
                    f"{host.text} has {counted(len(own), 'GPU')}",
                    "use as many as every host has",
                )
                for host, own in zip(self.hosts, cards, strict=True)
                if len(own) < slots
            ]
            if few:
                raise SettingsError(few)
        return Offer(
            gpus=[card for own in cards for card in own[:slots]],
            cores=sum(facts.cores for facts in self.facts),
            host_gib=min(facts.memory_gib for facts in self.facts),
            where=HOSTS,
        )

    def cards(self, settings: Settings, here: list[Gpu]) -> list[Gpu]:
        return here

    def check(self, settings: Settings) -> None:
        """Nothing yet: hosts are compared when a run is to start."""

    def checks(self, settings: Settings) -> Iterator[Check]:
        """Yield what `make test-env` checks of the hosts, and between them."""
        yield from checks.checks(settings)

    def set_up(self, settings: Settings, made: Sequence[Path], console: Console) -> None:
        """Nothing: `make setup` is called on each host."""

    def prepare(self, settings: Decided, cards: Sequence[Gpu], console: Console) -> int:
        """Compare the hosts, and prove that they share the folders and reach the first one. Raises UserError."""
        make_folders(settings)
        self.settings = settings
        # Other code may not understand what it is asked: this comes first.
        if problems := compare.differences(self.hosts, self.facts):
            raise SettingsError(problems)
        self.address = compare.address_of(self.facts[0])
        self.claim = compare.claim(self.hosts[0], settings)
        if self.claim.port != settings.master_port:
            console.print(f"port {settings.master_port} is in use there: this run takes MASTER_PORT={self.claim.port}")
        with agents(self.hosts) as started:
            said = shared.prove(started, settings, self.address, self.claim.port)
        self.claim.release()
        for line in said:
            console.print(line)
        return self.claim.port

    def start(self, run: Run) -> HostNodes:
        """Start the node program on every host."""
        word = secrets.token_hex(32)
        return HostNodes(run, [self.start_node(run, rank, host, word) for rank, host in enumerate(self.hosts)])

    def start_node(self, run: Run, rank: int, host: Host, word: str) -> Agent:
        """Start the node program on a host. Secrets travel over ssh's standard input, and in the environment."""
        folders = {name.upper(): str(getattr(self.settings, name).absolute()) for name in FOLDERS}
        environment = {name: value for name, value in os.environ.items() if look.is_forwarded(name)} | folders
        environment |= self.settings.secrets() | {"MASTER_ADDR": self.address, WORD: word}
        with (run.logs / f"node-{rank}.log").open("ab") as log:
            agent = Agent(host, log)
        arguments = ["--run", str(run.path.absolute()), "--node-rank", str(rank)]
        agent.request(Request(task="node", environment=environment, arguments=arguments))
        return agent


@dataclass
class HostNodes:
    """Started nodes on hosts."""

    run: Run
    agents: list[Agent]
    lost_at: dict[int, float] = field(default_factory=dict)

    def codes(self) -> list[int | None]:
        """Return each node's exit code: None while it runs, or may say why the connection to it broke."""
        return [self.code(rank, agent) for rank, agent in enumerate(self.agents)]

    def code(self, rank: int, agent: Agent) -> int | None:
        code = agent.process.poll()
        if code is None or 0 <= code < SSH_FAILED:
            return 128 - code if code and 128 < code < 160 else code
        # The connection broke, or somebody ended ssh: the node saves and stops if it can. Otherwise others miss it.
        lost_at = self.lost_at.setdefault(rank, time.monotonic())
        if self.run.ended or self.run.failure():
            return 0
        if time.monotonic() - lost_at < LOST_WAIT_S:
            return None
        reason = f"node {rank}: the connection to {agent.host.text} was lost"
        self.run.fail(Failure(kind="lost_node", reason=reason, nodes=[rank]))
        return 0

    def end_now(self) -> None:
        """End the nodes without saving."""
        for agent in self.agents:
            agent.send(END)
