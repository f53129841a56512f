"""The speeds that `make test-env` has measured on this machine, kept for the plan in DATA_PATH/machines/HOST.json.

They are those of one machine, its cards and its driver: after a change of these they are not used, and a note says so.
"""

from __future__ import annotations

import hashlib
import re
import socket
import time
from collections import Counter
from dataclasses import field, replace
from pathlib import Path

from sft import resources
from sft.host.gpus import Gpu
from sft.host.plan.cards import Card
from sft.run import files, typed_json
from sft.run.light import dataclass
from sft.run.records import LinkSpeeds
from sft.run.typed_json import Record
from sft.settings.fields import Settings

ON_THIS_MACHINE = ("local", "compose")  # launchers
MACHINE_ID = Path("/etc/machine-id")  # the same until the system is installed again


@dataclass(frozen=True, kw_only=True)
class Measured(Record):
    """What was measured on a machine."""

    machine: str  # a hash of what makes it this one
    cards: list[str]  # their names, in order
    driver: str  # "" without cards
    measured_at: float  # the last time, in seconds since 1970
    links: dict[str, LinkSpeeds] = field(default_factory=dict)  # by launcher: containers may be slower
    disk_gb_s: dict[str, float] = field(default_factory=dict)  # at which RUNS_PATH is written, by its path
    days: dict[str, str] = field(default_factory=dict)  # on which each of them was measured, by the same keys

    def day(self, key: str = "") -> str:
        """Return the day on which a link or a disk was measured; without a key, the last one."""
        return self.days.get(key) or day_of(self.measured_at)

    def launcher_of(self, launcher: str) -> str:
        """Return the launcher whose measured link counts for another one; for auto, one of this machine."""
        found = [name for name in ON_THIS_MACHINE if name in self.links] if launcher == "auto" else []
        return found[0] if found else launcher

    def applied(self, card: Card, launcher: str) -> Card:
        """Return a card with the speeds that were measured in place of the table's."""
        launcher = self.launcher_of(launcher)
        link = self.links.get(launcher)
        if link is None or link.backend != "nccl":
            return card
        if link.ranks > 1:
            name = f"NCCL between {link.ranks} ranks, measured on {self.day(launcher)}"
            gather = link.gather_gb_s or link.all_reduce_gb_s
            card = replace(card, link_gb_s=gather, all_reduce_gb_s=link.all_reduce_gb_s, link=name)
        copies = [speed for speed in (link.to_gpu_gb_s, link.from_gpu_gb_s) if speed]
        return replace(card, host_gb_s=min(copies)) if copies else card


def day_of(seconds: float) -> str:
    """Return the day of a time since 1970."""
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def path(settings: Settings) -> Path:
    """Return the file of this machine: several may share a data folder."""
    return folder(settings) / f"{re.sub(r'[^A-Za-z0-9._-]', '_', socket.gethostname())}.json"


def folder(settings: Settings) -> Path:
    """Return the folder with a file for each machine."""
    return settings.data_path / "machines"


def machine() -> str:
    """Return what tells this machine from others of its name."""
    known = f"{socket.gethostname()} {resources.text(MACHINE_ID)}"
    return hashlib.sha256(known.encode()).hexdigest()[:16]


def keep(settings: Settings, cards: list[Gpu], links: dict[str, LinkSpeeds], disk_gb_s: float) -> Path | None:
    """Write what was measured now, beside what other launchers and folders have measured. Raises OSError."""
    if not links and not disk_gb_s:
        return None
    before, _ = kept(settings, cards)
    disks = {str(settings.runs_path.absolute()): disk_gb_s} if disk_gb_s else {}
    now = time.time()
    found = Measured(
        machine=machine(),
        cards=[card.name for card in cards],
        driver=cards[0].driver if cards else "",
        measured_at=now,
        links=(before.links if before else {}) | links,
        disk_gb_s=(before.disk_gb_s if before else {}) | disks,
        days=(before.days if before else {}) | dict.fromkeys([*links, *disks], day_of(now)),
    )
    path(settings).parent.mkdir(parents=True, exist_ok=True)
    typed_json.write(path(settings), found)
    return path(settings)


def kept(settings: Settings, cards: list[Gpu]) -> tuple[Measured | None, str]:
    """Return what was measured on this machine with these cards, or None and a note if it is of no use."""
    again = "`make test-env` measures again"
    try:
        found = typed_json.read(path(settings), Measured, f"remove it; {again}")
    except FileNotFoundError:
        others = sorted(other.stem for other in folder(settings).glob("*.json"))
        if not others:
            return None, ""
        return None, f"the speeds measured on {', '.join(others)} are not this machine's: {again}"
    except (OSError, files.Unreadable) as error:
        return None, str(error)
    if found.machine != machine():
        return None, f"the speeds measured on {found.day()} are another machine's of this name: {again}"
    if not cards or not found.cards:  # a machine whose driver is not at work, or was not: only the disk is the same
        return replace(found, links={}) if len(cards) != len(found.cards) else found, ""
    if Counter(found.cards) != Counter(card.name for card in cards):
        return None, f"the speeds measured on {found.day()} are of other cards ({in_words(found.cards)}): {again}"
    if found.driver != cards[0].driver:
        return None, f"the speeds measured on {found.day()} are of driver {found.driver}: {again}"
    return found, ""


def in_words(names: list[str]) -> str:
    """Return names of cards in words, as in "2 x NVIDIA A30"."""
    return ", ".join(f"{number} x {name}" for name, number in Counter(names).items()) or "none"
