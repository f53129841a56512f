"""The checks of this machine, quick ones first: is it fit for a run, and what to do if it is not."""

from __future__ import annotations

import random
from collections.abc import Iterator

from sft import hostfile
from sft.host import gpus
from sft.host.check import Check
from sft.host.doctor import card_facts, cards, disk_speed, hardware, installation, kernel
from sft.host.launch import ports
from sft.host.launch.launcher import Launcher
from sft.host.launch.probe import PROBE_TIMEOUT_S, measured, probe
from sft.settings.fields import Settings

# NCCL has some 10 MB for each pair of ranks and channel, up to a hundred of them.
SHM_LEAST_GB = 1.0
PORTS = range(20_000, 32_000)  # Linux gives those from 32768 on to whoever asks for none
SHM_REMEDY = "sudo mount -o remount,size=8G /dev/shm; in a container, start it with --shm-size=8g"


def port(settings: Settings) -> Check:
    """Check the ports on which ranks and nodes meet."""
    port, found = settings.master_port, ports.free_port(settings)
    if found == port:
        return Check("port", "ok", f"{port} is free")
    in_use = f"{port} is in use{ports.by_whom(settings)}"
    if found:
        return Check("port", "ok", f"{in_use}; a run without containers takes {found}")
    return Check("port", "failure", f"MASTER_PORT={in_use}", "choose another MASTER_PORT, or leave it out")


def where(chosen: Launcher) -> Check:
    """Say what is checked where, which depends on the launcher."""
    if chosen.own_packages:
        what = "GPUs, memory and disk are checked here; packages, folders and links in the nodes' containers"
    elif chosen.on_this_machine:
        what = "its nodes are on this machine, where everything is checked"
    else:
        what = "settings, inputs and disk are checked here; `make test-env LAUNCHER=local` on a node checks the rest"
    return Check("launcher", "ok", f"{chosen.name}: {what}", values={"name": chosen.name})


def all_reduce(settings: Settings) -> Check:
    """Check that ranks meet and add: those of the run on its GPUs, or two on the CPU. With one GPU, its copies."""
    number = min(len(gpus.visible()), max(2, settings.world_size)) if installation.torch_cuda() else 0
    device, ranks = ("cuda", number) if number else ("cpu", 2)
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"}
    found = probe(device, range(ranks), ranks, 1, **rendezvous)
    if found is None:
        what = f"{ranks} {device} ranks hung for {PROBE_TIMEOUT_S} s"
        return Check("all-reduce", "failure", what, "check firewall and GPUs")
    if found.failed is not None or not found.speeds:
        what = f"{ranks} {device} ranks: {found.last_line}"
        return Check("all-reduce", "failure", what, "`make clean setup` reinstalls torch")
    return measured(found.speeds, device)


def free_port() -> int:
    """Return a port that is free now, of those that no program gets without asking for one."""
    return next(filter(hostfile.port_is_free, random.sample(PORTS, len(PORTS))))


def checks(settings: Settings, chosen: Launcher) -> Iterator[Check]:
    """Yield the checks of this machine for runs with a launcher, quick ones first."""
    yield installation.env_file(settings)
    yield installation.python(settings)
    yield where(chosen)
    if chosen.on_this_machine and not chosen.own_packages:
        yield installation.packages(settings)
        if gpus.visible():
            yield installation.kernels(settings)
    yield installation.extras(settings)
    if chosen.on_this_machine:
        yield hardware.cpu(settings)
        yield hardware.memory(settings)
        yield hardware.gpu(settings)
        yield from cards.checks(card_facts.facts(), [card.index for card in gpus.visible()])
        yield port(settings)
    if chosen.on_this_machine and not chosen.own_packages:
        yield hardware.process_limits(settings)
        if len(gpus.visible()) > 1:
            yield hardware.shared_memory(SHM_LEAST_GB, SHM_REMEDY)
        yield kernel.check(settings)
        yield all_reduce(settings)
    yield disk_speed.check(settings)
