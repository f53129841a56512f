"""The network interface on which a node reaches the first one: gloo and NCCL would guess, and take a wrong one."""

from __future__ import annotations

import socket

import psutil

VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
ANY_PORT = 9  # a UDP socket that is connected sends nothing


def variables(master: str) -> dict[str, str]:
    """Return the variables that name the interface towards the first node; none if that cannot be found out."""
    name = towards(master)
    return dict.fromkeys(VARIABLES, name) if name else {}


def towards(master: str) -> str:
    """Return the interface whose address this machine uses to reach another one, or is known by if it is itself that.

    The kernel's route to an own address is the loopback interface, but the address belongs to the one that others see.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            asked.connect((master, ANY_PORT))
            own = asked.getsockname()[0]
    except OSError:
        return ""
    found = psutil.net_if_addrs().items()
    return next((name for name, addresses in found if any(one.address == own for one in addresses)), "")
