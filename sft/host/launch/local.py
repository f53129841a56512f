"""`LAUNCHER=local`: the nodes of a run are processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sft import model_files, resources
from sft.host import gpus
from sft.host.check import Check
from sft.host.folders import make_folders
from sft.host.gpus import Gpu
from sft.host.launch import ports, signals
from sft.host.launch.offer import Offer
from sft.run.directory import Run
from sft.settings.fields import Settings
from sft.settings.kinds import Launched
from sft.settings.stages import Decided


class Local:
    """The launcher that starts node programs as processes."""

    name: Launched = "local"
    place = "on this machine"
    suits = "nothing else can start it"
    queues = False
    on_this_machine = True
    own_packages = False

    def problem(self) -> None:
        return None

    def objection(self, settings: Settings, has_gpu: bool) -> str:
        return ""

    def offer(self, settings: Settings, here: list[Gpu]) -> Offer:
        return Offer.of_this_machine(here)

    def cards(self, settings: Settings, here: list[Gpu]) -> list[Gpu]:
        return here

    def check(self, settings: Settings) -> None:
        """Raise SettingsError if a package that the settings need is not installed."""
        model_files.check_bitsandbytes(settings)

    def checks(self, settings: Settings) -> Iterator[Check]:
        """Yield nothing: its nodes are on this machine, which is checked for every launcher."""
        yield from ()

    def set_up(self, settings: Settings, made: Sequence[Path], console: Console) -> None:
        """Nothing: its nodes use the packages of this installation."""

    def prepare(self, settings: Decided, cards: Sequence[Gpu], console: Console) -> int:
        """Claim the ports and make the folders. Raises SettingsError if that fails."""
        self.settings, self.given = settings, cards
        # Keep the claim as long as nodes may be started: the ranks only begin to listen after some seconds.
        self.claim = ports.claim(settings, console)
        make_folders(settings)
        return self.claim.port

    def start(self, run: Run) -> LocalNodes:
        """Start the node program for every node, each with its own cards."""
        return LocalNodes([start_node(run, rank, self.settings, self.given) for rank in range(self.settings.nodes)])


@dataclass
class LocalNodes:
    """Started nodes that are processes."""

    processes: list[subprocess.Popen[bytes]]

    def codes(self) -> list[int | None]:
        return [process.poll() for process in self.processes]

    def end_now(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGQUIT)


def start_node(run: Run, rank: int, settings: Decided, cards: Sequence[Gpu]) -> subprocess.Popen[bytes]:
    """Start one node program with its share of the run's GPUs. Secrets travel in the environment only."""
    environment = {
        "OMP_NUM_THREADS": str(max(1, resources.cores() // settings.world_size)),
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        **os.environ,
        **settings.secrets(),
        "MASTER_ADDR": "127.0.0.1",
    }
    if cards:
        slots = settings.gpus_per_node
        environment |= gpus.environment(list(cards[rank * slots : (rank + 1) * slots]))
    with (run.logs / f"node-{rank}.log").open("ab") as log, signals.blocked():
        return subprocess.Popen(
            [sys.executable, "-m", "sft.host.launch.node", "--run", str(run.path), "--node-rank", str(rank)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # the node writes its log itself
            stderr=log,
            start_new_session=True,  # a Ctrl-C in the terminal is meant for the task, not for the nodes
        )
