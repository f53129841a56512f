"""The two ports of a run without containers: MASTER_PORT for the ranks, the next one for the node programs.

Many seconds pass between finding a free port and the moment when a rank listens on it, and another run could choose the
same port. So a run claims its ports by name in Linux's abstract socket namespace, which has the scope of the ports
themselves: all users of a machine, or a container's network. The kernel drops a claim when its process ends.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console

from sft import hostfile
from sft.errors import SettingsError, SftError, wrong
from sft.run import find
from sft.run.directory import Run
from sft.settings.fields import Settings

PAIRS = 200  # pairs of ports that are tried before giving up
LAST = 65534  # the largest MASTER_PORT


@dataclass
class Claim:
    """Two ports that no other run takes until this is closed or the process ends."""

    port: int
    names: list[socket.socket]

    def close(self) -> None:
        """Release the ports."""
        for name in self.names:
            name.close()


def claim(settings: Settings, console: Console) -> Claim:
    """Claim the two ports of a run.

    If MASTER_PORT was set, it is that port or an error. Otherwise it is the first free port from there on, and a line
    says so. Raises SettingsError.
    """
    for port in candidates(settings):
        if claimed := claim_pair(port):
            if port != settings.master_port:
                console.print(
                    f"port {settings.master_port} is in use{by_whom(settings)}: this run takes MASTER_PORT={port}"
                )
            return claimed
    if settings.is_explicit("master_port"):
        busy = [port for port in pair(settings.master_port) if not hostfile.port_is_free(port)]
        behind = f" (the nodes meet on {busy[0]})" if busy and settings.master_port not in busy else ""
        what, remedy = (
            f"is in use{by_whom(settings)}{behind}",
            "choose another port, or leave it out: a free one is taken",
        )
    else:
        what, remedy = f"neither this port nor one of the next {2 * PAIRS} is free", "set MASTER_PORT to a free one"
    raise SettingsError([wrong("MASTER_PORT", settings.master_port, what, remedy)])


def free_port(settings: Settings) -> int | None:
    """Return the MASTER_PORT that a run would get now, or None."""
    for port in candidates(settings):
        if claimed := claim_pair(port):
            claimed.close()
            return port
    return None


def candidates(settings: Settings) -> Iterator[int]:
    """Yield the ports to try: MASTER_PORT, and the following ones unless the user has set it."""
    if settings.is_explicit("master_port"):
        yield settings.master_port
    else:
        yield from range(settings.master_port, min(LAST, settings.master_port + 2 * PAIRS) + 1, 2)


def pair(port: int) -> tuple[int, int]:
    """Return both ports of a run."""
    return port, hostfile.link_port(port)


def claim_pair(port: int) -> Claim | None:
    """Claim two ports; None if another run has claimed one of them, or a program listens on it."""
    claimed = Claim(port, [])
    try:
        for number in pair(port):
            name = socket.socket(socket.AF_UNIX)
            claimed.names.append(name)
            name.bind(f"\0sft-port-{number}")
    except OSError:
        claimed.close()
        return None
    if all(map(hostfile.port_is_free, pair(port))):
        return claimed
    claimed.close()
    return None


def by_whom(settings: Settings) -> str:
    """Return which other run of the same folder has the port, in words; empty if that is not known."""
    for run in find.at_work(settings.runs_path):  # with the one that is evaluated again: its task has the claim
        if run.name != settings.run_name and set(pair(settings.master_port)) & set(ports_of(run)):
            return f" by {run.path}"
    return ""


def ports_of(run: Run) -> tuple[int, ...]:
    """Return the ports of this machine that a run has."""
    try:
        frozen = run.settings()
    except SftError:
        return ()
    return pair(frozen.master_port) if frozen.launcher == "local" else ()
