"""The network interface on which a node reaches the first one: gloo and NCCL would guess, and take a wrong one."""

from __future__ import annotations

import contextlib
import socket

import psutil

VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
LOOPBACK, ANY_ADDRESS = "127.0.0.1", "192.0.2.1"  # the second one is nobody's: by the default route
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
