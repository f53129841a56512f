"""The seam for launchers: what every way to start a run's nodes can do, and the table of all of them.

A new launcher is one file beside `local.py` and one line in LAUNCHERS; `Launched` in `sft.settings.kinds` has its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console

from sft.errors import SettingsError, wrong
from sft.host import gpus
from sft.host.check import Check
from sft.host.gpus import Gpu
from sft.host.launch.compose_launcher import Compose
from sft.host.launch.hosts.by_hand import ByHand
from sft.host.launch.hosts.launcher import Hosts
from sft.host.launch.local import Local
from sft.host.launch.offer import Offer
from sft.host.launch.slurm.launcher import Slurm
from sft.run.directory import Run
from sft.settings.fields import Settings
from sft.settings.kinds import Launched
from sft.settings.stages import Decided


class Nodes(Protocol):
    """The started node programs of a run, in rank order."""

    def codes(self) -> list[int | None]:
        """Return each node's exit code: None while it runs, -N if signal N has ended it."""

    def end_now(self) -> None:
        """End the nodes without saving."""


class Launcher(Protocol):
    """A way to start the nodes of one run: chosen, asked for GPUs, checked, prepared and started in this order."""

    name: Launched
    place: str  # where its nodes are, as in "2 nodes on this machine"
    suits: str  # why LAUNCHER=auto takes it
    on_this_machine: bool  # its nodes use this machine's GPUs, memory and ports
    own_packages: bool  # its nodes have packages of their own, those of an image
    queues: bool  # a scheduler starts its nodes, perhaps hours later: the task submits the run and need not wait

    def problem(self) -> tuple[str, str] | None:
        """Return why it does not work on this machine, and the remedy; None if it works."""

    def objection(self, settings: Settings, has_gpu: bool) -> str:
        """Return why LAUNCHER=auto does not take it; "" if it does."""

    def offer(self, settings: Settings, here: list[Gpu]) -> Offer:
        """Return what its nodes may take; `here` are the GPUs that this program may use. Raises UserError."""

    def cards(self, settings: Settings, here: list[Gpu]) -> list[Gpu]:
        """Return the GPUs that its nodes get, in rank order; `here` are those of its offer."""

    def check(self, settings: Settings) -> None:
        """Raise SettingsError for settings that its nodes could not run with."""

    def checks(self, settings: Settings) -> Iterator[Check]:
        """Yield what `make test-env` checks besides this machine, quick checks first: the nodes, and between them."""

    def set_up(self, settings: Settings, made: Sequence[Path], console: Console) -> None:
        """Do its part of `make setup`; `made` are the folders that are new. Raises SftError."""

    def prepare(self, settings: Decided, cards: Sequence[Gpu], console: Console) -> int:
        """Make ready what the nodes need: ports, folders, an image. Return the run's MASTER_PORT. Raises SftError."""

    def start(self, run: Run) -> Nodes:
        """Start the nodes of the run it was prepared for. It can be started again. Raises UserError."""


# In the order in which LAUNCHER=auto tries them. `local` takes every run, so nothing behind it is tried.
LAUNCHERS: dict[Launched, type[Launcher]] = {"compose": Compose, "local": Local, "slurm": Slurm, "hosts": Hosts}


def choose(settings: Settings, has_gpu: bool) -> tuple[Launcher, str]:
    """Return the launcher of a run, and why it is that one. Raises SettingsError if the one asked for does not work."""
    if settings.launcher != "auto":
        launcher = would_be(settings)
        if problem := launcher.problem():
            raise SettingsError([wrong("LAUNCHER", launcher.name, *problem)])
        return launcher, f"LAUNCHER={launcher.name}"
    if settings.hosts:
        return Hosts(), Hosts.suits
    objections: list[str] = []
    for launcher in (kind() for kind in LAUNCHERS.values()):
        objection = launcher.objection(settings, has_gpu)
        if not objection:
            return launcher, objections[0] if objections else launcher.suits
        objections.append(objection)
    raise AssertionError("no launcher takes every run")


def would_be(settings: Settings) -> Launcher:
    """Return the launcher that a run would have, whether that works here or not."""
    if settings.launcher == "hosts" and not settings.hosts:
        return ByHand()
    if settings.launcher != "auto":
        return LAUNCHERS[settings.launcher]()
    if settings.hosts:
        return Hosts()
    return choose(settings, settings.device != "cpu" and bool(gpus.visible()))[0]
