"""What `make test-env` checks of the hosts: each of them, the folders that they share, and ranks that meet."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from sft.errors import SettingsError, UserError
from sft.host.check import Check
from sft.host.folders import make_folders
from sft.host.launch.hosts import compare, shared
from sft.host.launch.hosts.compare import at_once
from sft.host.launch.hosts.messages import Facts, Probed, Request
from sft.host.launch.hosts.ssh import agents
from sft.host.launch.probe import PROBE_TIMEOUT_S, measured
from sft.nouns import counted
from sft.settings import hosts
from sft.settings.fields import FOLDERS, Settings
from sft.settings.hosts import Host

MORE_S = 30.0  # after the probe's own time limit


def checks(settings: Settings) -> Iterator[Check]:
    """Yield the checks, quick ones first; what needs the earlier ones is left out if they fail."""
    try:
        named = hosts.parse(settings.hosts)
        facts = compare.facts_of(named)
    except SettingsError as error:
        yield from (Check.from_problem("host", problem) for problem in error.problems)
        return
    for host, found in zip(named, facts, strict=True):
        yield Check("host", "ok", in_words(found), where=host.text)
    if problems := compare.differences(named, facts):
        yield from (Check.from_problem("hosts", problem) for problem in problems)
        return
    yield Check("hosts", "ok", "the same code, Python and packages")
    try:
        yield from between(settings, named, facts)
    except SettingsError as error:
        yield from (Check.from_problem("hosts", problem) for problem in error.problems)
    except UserError as error:
        yield Check.from_problem("hosts", str(error))


def in_words(found: Facts) -> str:
    """Say what a host has."""
    cards = f"{len(found.cards)} x {found.cards[0].name}" if found.cards else "no GPU"
    return f"{cards}, {counted(found.cores, 'core')}, {found.memory_gib:.0f} GiB, Python {found.python}"


def between(settings: Settings, named: list[Host], facts: list[Facts]) -> Iterator[Check]:
    """Yield the checks between the hosts. Raises UserError."""
    make_folders(settings)
    address, claim = compare.address_of(facts[0]), compare.claim(named[0], settings)
    with agents(named) as started:
        warnings = shared.prove(started, settings, address, claim.port)
        yield from (Check("folders", "warning", line.removeprefix("warning: ")) for line in warnings)
        names = ", ".join(name.upper() for name in FOLDERS)
        yield Check("folders", "ok", f"every host reads and writes the same {names}")
        yield Check("ports", "ok", f"every host reaches {address} port {claim.port} and the next one")
        claim.release()
        slots = settings.gpus_per_node
        on_gpus = settings.device != "cpu" and all(len(found.cards) >= slots for found in facts)
        request = partial(
            Request, task="probe", address=address, port=claim.port, slots=slots, nodes=len(named),
            device="cuda" if on_gpus else "cpu",
        )  # fmt: skip
        timeout_s = PROBE_TIMEOUT_S + MORE_S
        asked = [
            partial(agent.answer, request(node_rank=rank), Probed, timeout_s) for rank, agent in enumerate(started)
        ]
        yield met(at_once(asked), named, "cuda" if on_gpus else "cpu")
    claim.agent.close()


def met(answers: list[Probed], named: list[Host], device: str) -> Check:
    """Return the check of ranks of all hosts that were to meet and add."""
    for answer, host in zip(answers, named, strict=True):
        if answer.said:
            remedy = "firewalls must let the hosts use any port between them; NCCL_DEBUG=INFO says more"
            return Check("all-reduce", "failure", answer.said, remedy, where=host.text)
    speeds = answers[0].speeds
    assert speeds
    return measured(speeds, device)
