"""The network between the hosts of a run, which every collective over all ranks passes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sft.errors import SettingsError, wrong
from sft.host.plan.measured import Measured
from sft.settings.fields import Settings

REACHED = 0.9  # share of a network's rate that collectives over TCP reach. ASSUMED.
# In Gbit/s, where neither LINK nor a measurement says it. ASSUMED.
USUAL = {"hosts": 10.0, "slurm": 100.0}
MOST_HOSTS = 1024
LINK = re.compile(r"(\d+(?:\.\d+)?)(?:gbe|gbit|g)?", re.IGNORECASE)


@dataclass(frozen=True)
class Wire:
    """The network between hosts. In a ring, each host's network card carries what each rank's link carries."""

    hosts: int
    gb_s: float  # that a collective reaches through each host's network card
    name: str

    @property
    def bytes_per_s(self) -> float:
        return self.gb_s * 1e9


def gbit_s(link: str, problems: list[str]) -> float:
    """Return the rate that LINK names, as in 10gbe, 100GbE or 40, in Gbit/s; 0 if it is not given.

    Add a line to `problems` if it is not one.
    """
    if not link:
        return 0.0
    found = LINK.fullmatch(link.strip())
    if found and float(found[1]):
        return float(found[1])
    problems.append(wrong("LINK", link, "is not a network", "use one such as 10gbe, 25gbe, 100gbe, or Gbit/s"))
    return 0.0


def number_of_hosts(text: str, problems: list[str]) -> int:
    """Return how many hosts HOSTS means: a number, or names with commas between them; 0 if it is not given.

    Add a line to `problems` if there are not several.
    """
    text = text.strip()
    number = int(text) if text.isdecimal() else len([name for name in text.split(",") if name.strip()])
    if text and not 1 < number <= MOST_HOSTS:
        problems.append(wrong("HOSTS", text, f"is not a number of hosts from 2 to {MOST_HOSTS}", "use HOSTS=2"))
        return 0
    return number


def launcher_of(settings: Settings) -> str:
    """Return the launcher of a run; LAUNCHER=auto takes hosts if HOSTS is set."""
    return "hosts" if settings.launcher == "auto" and settings.hosts else settings.launcher


def gpus_of_a_host(settings: Settings) -> int:
    """Return the GPUs that a run has on each host: a launcher for one host may divide them into nodes."""
    return settings.gpus_per_node if launcher_of(settings) in USUAL else settings.world_size


def between(settings: Settings, hosts: int, link: float, speeds: Measured | None) -> Wire | None:
    """Return the network between a run's hosts; None if it has one host.

    `hosts`, `link`: what the user assumes, in Gbit/s; 0 if nothing. Raises SettingsError for a link of one host.
    """
    launcher = launcher_of(settings)
    number = hosts or (settings.nodes if launcher in USUAL else 1)
    if number < 2 and link:
        what = "this plan is for one host, which has no network to another"
        raise SettingsError([wrong("LINK", f"{link:g}", what, "set HOSTS=2 too, or leave LINK out")])
    if number < 2:
        return None
    if link:
        return assumed(number, link)
    launcher = launcher if launcher in USUAL else "hosts"
    kept = speeds.links.get(launcher) if speeds else None
    if speeds and kept and kept.nodes > 1 and kept.backend == "nccl":  # gloo is slower than most networks
        name = f"network between hosts, measured on {speeds.day(launcher)}"
        return Wire(number, kept.gather_gb_s or kept.all_reduce_gb_s, name)
    return assumed(number, USUAL[launcher])


def assumed(hosts: int, rate: float) -> Wire:
    """Return a network of a rate in Gbit/s."""
    return Wire(hosts, rate / 8 * REACHED, f"{rate:g} GbE between hosts (assumed; LINK=25gbe plans for another)")
