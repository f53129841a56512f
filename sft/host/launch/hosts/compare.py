"""All hosts of a run beside each other: what they are, how they differ, and the ports on the first one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sft.errors import SettingsError, UserError, wrong
from sft.host.launch import ports
from sft.host.launch.hosts import look
from sft.host.launch.hosts.messages import Facts, Request
from sft.host.launch.hosts.ssh import Agent, agents, configured_name
from sft.settings.fields import Settings
from sft.settings.hosts import Host

T = TypeVar("T")


def facts_of(all_hosts: list[Host]) -> list[Facts]:
    """Return what the hosts are, in their order. Raises UserError with a line for each that does not answer."""
    towards = [name for host in all_hosts[1:2] for name in (configured_name(host), host.name)]
    with agents(all_hosts) as started:
        return at_once([partial(agent.look, [] if rank else towards) for rank, agent in enumerate(started)])


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Return the results of calls that are made at the same time. Raises UserError with the lines of all that fail."""
    with ThreadPoolExecutor(max(1, len(calls))) as pool:
        futures = [pool.submit(call) for call in calls]
    problems = [str(error) for future in futures if (error := future.exception()) and isinstance(error, UserError)]
    if problems:
        raise SettingsError(problems)
    return [future.result() for future in futures]


def differences(all_hosts: list[Host], facts: list[Facts]) -> list[str]:
    """Return a line for everything in which a host differs from the first one, or with which no rank could start."""
    each = zip(all_hosts, facts, strict=True)
    alone = [f"HOSTS={host.text}: {problem}" for host, found in each for problem in found.problems]
    others = zip(all_hosts[1:], facts[1:], strict=True)
    return alone + [
        line for host, found in others for line in look.differences(host.text, found, all_hosts[0].text, facts[0])
    ]


def address_of(first: Facts) -> str:
    """Return the address by which the first host is reached: MASTER_ADDR, or that towards the second host."""
    return os.environ.get("MASTER_ADDR") or first.address or "127.0.0.1"


@dataclass
class Claim:
    """The two ports of a run, claimed by an agent on the first host as long as this program lives."""

    agent: Agent
    port: int

    def release(self) -> None:
        """Let a run listen on them; the claim stays. Raises UserError."""
        self.agent.ask(Request(task="release"))


def claim(first: Host, settings: Settings) -> Claim:
    """Claim the two ports of a run on the first host, and listen on them for a trial. Raises SettingsError."""
    agent = Agent(first)
    found = agent.ask(Request(task="listen", ports=list(ports.candidates(settings))))
    if found.problem:
        what = f"is in use on {first.text}, or the next port is"
        raise SettingsError([wrong("MASTER_PORT", settings.master_port, what, "choose another port")])
    return Claim(agent, found.port)
