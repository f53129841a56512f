"""The network interface on which a node reaches the first one: gloo and NCCL would guess, and take a wrong one."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

import psutil

from sft.errors import SettingsError, wrong

VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
LOOPBACK, ANY_ADDRESS = "127.0.0.1", "192.0.2.1"  # the second one is nobody's: by the default route
INTERNET = {socket.AF_INET, socket.AF_INET6}
NCCL_FAMILIES = {"AF_INET": socket.AF_INET, "AF_INET6": socket.AF_INET6}
ANY_PORT = 9  # a UDP socket that is connected sends nothing


def variables(master: str) -> dict[str, str]:
    """Return the variables that name the interface towards the first node; none if that cannot be found out."""
    name = towards(master)
    return dict.fromkeys(VARIABLES, name) if name else {}


def towards(master: str) -> str:
    """Return the interface whose address this machine uses to reach another one, or is known by if it is itself that.

    The kernel's route to an own address is the loopback interface, but the address belongs to the one that others see.
    """
    own = own_address(master)
    if own.startswith("127.") and own != LOOPBACK:  # Debian gives a machine's own name to 127.0.1.1
        own = own_address(ANY_ADDRESS)
    found = psutil.net_if_addrs().items()
    # psutil writes the interface behind an IPv6 address of the link itself, as in fe80::1%eth0.
    return next((name for name, all_ in found if any(one.address.split("%")[0] == own for one in all_)), "")


def own_address(other: str) -> str:
    """Return the address from which this machine reaches another one, IPv4 or IPv6; "" without a route to it."""
    try:
        found = socket.getaddrinfo(other, ANY_PORT, type=socket.SOCK_DGRAM)
    except OSError:
        return ""
    for family, kind, _, _, address in found:
        with contextlib.suppress(OSError), socket.socket(family, kind) as asked:
            asked.connect(address)
            return str(asked.getsockname()[0]).split("%")[0]
    return ""


# Those that the user names


def check(on_gpus: bool) -> None:
    """Raise SettingsError if ranks could not start here with the interfaces that the environment names."""
    if found := problems(os.environ, on_gpus):
        raise SettingsError(found)


def problems(environment: Mapping[str, str], on_gpus: bool) -> list[str]:
    """Return a line for every variable that names no interface of this machine with which ranks could start."""
    interfaces = families()
    gloo, nccl = (environment.get(name, "") for name in VARIABLES)
    found = []
    if missing := [name for name in gloo_names(gloo) if name not in interfaces]:
        found.append(named_wrongly(VARIABLES[0], gloo, f"no interface {missing[0]!r} with an address"))
    family = NCCL_FAMILIES.get(environment.get("NCCL_SOCKET_FAMILY", ""))
    usable = [name for name, all_ in interfaces.items() if family is None or family in all_]
    if on_gpus and nccl and not any(nccl_takes(nccl, name) for name in usable):
        kind = f" with an address of {environment['NCCL_SOCKET_FAMILY']}" if family else ""
        found.append(named_wrongly(VARIABLES[1], nccl, f"it leaves NCCL no interface{kind}"))
    return found


def named_wrongly(variable: str, value: str, what: str) -> str:
    """Return the line about a variable, with the machine and what it has."""
    here = ", ".join(families())
    remedy = f"name one of {here}, or leave it out: each node finds the one that leads to the first node"
    return wrong(variable, value, f"{what} on {socket.gethostname()}", remedy)


def families() -> dict[str, set[int]]:
    """Return the interfaces of this machine that have an address, with the families of their addresses."""
    found = {name: {one.family for one in all_} & INTERNET for name, all_ in psutil.net_if_addrs().items()}
    return {name: kinds for name, kinds in found.items() if kinds}


def gloo_names(value: str) -> list[str]:
    """Return the interfaces that torch hands to gloo, all of which must be there. One character counts as none."""
    names = value.split(",") if len(value) > 1 else []
    return names[:-1] if names and not names[-1] else names


def nccl_takes(value: str, name: str) -> bool:
    """Tell whether NCCL would use an interface: `eth` means all that begin so, `=` exactly those, `^` all others."""
    excluded, value = value.startswith("^"), value.removeprefix("^")
    exact, value = value.startswith("="), value.removeprefix("=")
    words = [word.split(":")[0] for word in value.split(",") if word]
    return any(name == word if exact else name.startswith(word) for word in words) != excluded
