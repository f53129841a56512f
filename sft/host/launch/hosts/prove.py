"""The proofs before a run: every host sees the same folders, and reaches the first one."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from sft.host.launch import ports
from sft.host.launch.hosts.messages import Answer, Request
from sft.host.launch.ports import Claim
from sft.run import files

SEEN_WITHIN_S = 6.0  # NFS may show a new file late
CONNECT_TIMEOUT_S = 5.0
KNOWN_WITHIN_S = 20.0  # a pod's own name may be known to its network a little later than it starts


def token_file(folder: Path, token: str, node_rank: int | None = None) -> Path:
    """Return the file of the task, or that with which a host answers."""
    return folder / (f".shared-{token}" if node_rank is None else f".shared-{token}-{node_rank}")


def prove(request: Request) -> Answer:
    """Read the token in every folder and write an answer beside it; connect to the first host."""
    deadline = time.monotonic() + SEEN_WITHIN_S
    found = {
        name: seen(Path(folder), request.token, request.node_rank, deadline) for name, folder in request.folders.items()
    }
    locks = {
        name: files.is_locked(token_file(Path(folder), request.token))
        for name, folder in request.folders.items()
        if not found[name]
    }
    problem = unreachable(request.address, request.port) if request.address else ""
    return Answer(folders=found, locks=locks, problem=problem)


def seen(folder: Path, token: str, node_rank: int, deadline: float) -> str:
    """Return why a folder is not the task's: "" if its token is there, and the answer could be written."""
    path = token_file(folder, token)
    while (content := read(path)) != token:
        if not folder.is_dir():
            return "is not there"
        if time.monotonic() > deadline:
            return "is another folder"
        time.sleep(0.2)
    try:
        token_file(folder, token, node_rank).write_text(content)
    except OSError as error:
        return f"cannot be written there ({error.strerror})"
    return ""


def read(path: Path) -> str | None:
    """Return the content of a file; None if it is not there."""
    try:
        return path.read_text()
    except OSError:
        return None


def unreachable(address: str, port: int) -> str:
    """Return why the ports on which the first host listens cannot be reached; "" if they can."""
    for number in ports.pair(port):
        try:
            socket.create_connection((address, number), CONNECT_TIMEOUT_S).close()
        except OSError as error:
            return f"{address} port {number} ({error.strerror or error})"
    return ""


def elsewhere(address: str, port: int) -> str:
    """Return why an address does not lead to this machine; "" if it does. Listens on the port meanwhile."""
    deadline = time.monotonic() + KNOWN_WITHIN_S
    server = listening(port)
    if server is None:
        return ""  # whoever has taken the port meanwhile: the node says so
    with server:
        server.settimeout(CONNECT_TIMEOUT_S)
        while (reason := not_to(server, address, port)) and time.monotonic() < deadline:
            time.sleep(0.5)
    return reason


def not_to(server: socket.socket, address: str, port: int) -> str:
    """Return why a connection to an address does not arrive at a server of this program; "" if it does."""
    token = secrets.token_bytes(16)
    try:
        with socket.create_connection((address, port), CONNECT_TIMEOUT_S) as connection:
            connection.sendall(token)
            return "" if arrives(token, server) else "another machine answers there"
    except OSError as error:
        return str(error.strerror or error)


def arrives(token: bytes, server: socket.socket) -> bool:
    """Tell whether one of the connections that wait at a server brings a token."""
    with contextlib.suppress(OSError):  # none waits any longer
        while True:
            with server.accept()[0] as newcomer:
                newcomer.settimeout(CONNECT_TIMEOUT_S)
                if newcomer.recv(len(token), socket.MSG_WAITALL) == token:
                    return True
    return False


@dataclass
class Listener:
    """The ports of a run on the first host: claimed for it, and listened on until the others have tried them."""

    claim: Claim
    servers: list[socket.socket]

    @classmethod
    def of(cls, candidates: list[int]) -> tuple[Listener | None, Answer]:
        """Return a listener on the first pair of ports that is free, and the answer that says so."""
        for port in candidates:
            if claim := ports.claim_pair(port):
                servers = [server for number in ports.pair(port) if (server := listening(number))]
                if len(servers) == 2:
                    return cls(claim, servers), Answer(port=port)
                claim.close()
        return None, Answer(problem="in use")

    def release(self) -> None:
        """Listen no more, but keep the claim."""
        for server in self.servers:
            server.close()


def listening(port: int) -> socket.socket | None:
    """Return a server on a port, on all addresses; None if it cannot be used."""
    with contextlib.suppress(OSError):
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    return None
