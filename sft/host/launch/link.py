"""The TCP connections between node programs: node 0 listens, every other node connects and stays connected.

Ranks notice a dead peer late, over NCCL only after minutes. If a node program dies, its connection closes at once; if
the network is cut, the kernel's keepalive notices within half a minute. A node that ends well says goodbye first.
The messages are lines of text: `prove NONCE` to a newcomer, `node R PROOF` from it, `run NAME` or `failed REASON` to
it, `ready` from it, `broken FAILURE` to all, `goodbye` from both. The proof is made from a word that only the nodes of
a run know; it does not reveal the word. Strangers, such as scanners of ports, may come at any time: one that does not
prove itself is sent away, and never keeps a node from coming. `benchmarks/scale.py` measures this with 512 nodes.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import re
import secrets
import socket
import time
from dataclasses import dataclass, field

from sft.host.launch import rank_variables
from sft.host.launch.word import proof
from sft.run.records import Failure

# The kernel asks a silent peer after 5 s, and gives it up after 20 s without an answer.
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 20_000}
CONNECT_TIMEOUT_S = 2.0
REFUSE_S = 10.0
NODE = r"node (\d+ \w+)"
LONGEST = 1000  # characters that a newcomer may send before it has said which node it is
NEWCOMER_S = 30.0  # within which a newcomer must have said so
STRANGERS = 200  # newcomers that are kept beside the nodes that are missing; if there are more, the oldest have to go
# Connections that wait to be accepted: all nodes may come in the same moment. Python's own limit is 128, and the kernel
# resets what is beyond it, or beyond its own limit, net.core.somaxconn (4,096 since Linux 5.4).
WAITING = 4096
PARTS = 16  # of 4 KiB that are read from a peer at a time: the others must not wait for one that talks without end


def master_address() -> str:
    """Return where node 0 is: as the environment says, or this machine."""
    return rank_variables.master_address() or "127.0.0.1"


@dataclass
class Peer:
    """The connection to one other node."""

    connection: socket.socket
    text: str = ""
    lost: str = ""
    nonce: str = field(default_factory=lambda: secrets.token_hex(16))
    came_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.connection.setblocking(False)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            self.connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def read(self) -> None:
        """Receive what has arrived, and note if the connection has ended."""
        if self.lost:
            return
        try:
            for _ in range(PARTS):
                part = self.connection.recv(4096)
                if not part:
                    self.lost = "its program is gone"
                    return
                self.text += part.decode(errors="replace")
        except BlockingIOError:
            return
        except OSError as error:
            self.lost = f"the network between: {error.strerror or error}"

    def say(self, line: str) -> None:
        """Send a line. If the peer cannot be reached, `read` notices."""
        with contextlib.suppress(OSError):
            self.connection.send(f"{line}\n".encode())

    def said(self, pattern: str) -> str | None:
        """Return the first group of a line that the peer has sent, or None."""
        match = re.search(rf"^{pattern}\n", self.text, re.MULTILINE)
        return match[1] if match else None


@dataclass
class Link:
    """A node's connections: those of node 0 to every other node, or the one of another node to node 0.

    Nothing here blocks: `poll` does what can be done now, and the node program calls it often.
    """

    peers: dict[int, Peer] = field(default_factory=dict)

    def poll(self) -> None:
        """Receive what the others have sent."""
        for peer in self.peers.values():
            peer.read()

    def lost_rank(self) -> int | None:
        """Return which node was lost, or None. A node that said goodbye is not lost."""
        return next((rank for rank, peer in self.peers.items() if peer.lost and peer.said("(goodbye)") is None), None)

    def lost(self) -> str | None:
        """Return which node was lost and how, or None."""
        rank = self.lost_rank()
        return None if rank is None else f"lost node {rank} ({self.peers[rank].lost})"

    @property
    def first_has_ended(self) -> bool:
        """Whether node 0 was here and has ended: what this node requests now would count for the next attempt."""
        return False

    def close(self, well: bool) -> None:
        """Close the connections, with a goodbye if this node has done its part."""
        for peer in self.peers.values():
            if well:
                peer.say("goodbye")
            peer.connection.close()
        self.peers.clear()


class MasterLink(Link):
    """Node 0's side."""

    def __init__(self, nodes: int, port: int, word: str = "") -> None:
        """Listen on `port` for the other nodes. Raises OSError if that is not possible."""
        super().__init__()
        self.nodes, self.answer, self.word = nodes, "", word
        self.newcomers: list[Peer] = []
        self.refused: dict[int, str] = {}  # why newcomers were sent away, by the rank that they said they had
        self.said: list[str] = []  # lines about newcomers that were sent away; whoever prints them removes them
        address = master_address()
        if address.startswith("127.") or address == "localhost":
            self.listener = socket.create_server((address, port), backlog=WAITING)
        elif socket.has_dualstack_ipv6():
            self.listener = socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=WAITING
            )
        else:
            self.listener = socket.create_server(("", port), backlog=WAITING)
        self.listener.setblocking(False)

    def poll(self) -> None:
        """Accept newcomers, answer them as soon as the answer is known, and receive what the others have sent."""
        self.accept()
        for newcomer in list(self.newcomers):
            newcomer.read()
            said = newcomer.said(NODE)
            if said is None:
                late = time.monotonic() - newcomer.came_at > NEWCOMER_S
                if newcomer.lost or late or len(newcomer.text) >= LONGEST:
                    self.send_away(newcomer)
            elif reason := self.objection(said, newcomer.nonce):
                newcomer.say(f"failed {reason}")
                self.send_away(newcomer)
                self.said.append(reason)
                self.refused[rank_in(said)] = reason
            elif newcomer.lost or self.had(rank_in(said)):
                self.send_away(newcomer)
            elif self.answer:
                self.newcomers.remove(newcomer)
                self.peers[rank_in(said)] = newcomer
                newcomer.say(self.answer)
        super().poll()

    def accept(self) -> None:
        """Accept everybody who waits at the port."""
        with contextlib.suppress(OSError):  # nobody waits; or there are no more files, and then they wait on
            while True:
                newcomer = Peer(self.listener.accept()[0])
                newcomer.say(f"prove {newcomer.nonce}")
                self.newcomers.append(newcomer)
                if len(self.newcomers) > self.nodes - len(self.peers) + STRANGERS:
                    unproven = (one for one in self.newcomers if one.said(NODE) is None)
                    self.send_away(next(unproven, self.newcomers[0]))

    def send_away(self, newcomer: Peer) -> None:
        """Close the connection to a newcomer that is not a node of this run."""
        self.newcomers.remove(newcomer)
        newcomer.connection.close()

    def objection(self, said: str, nonce: str) -> str:
        """Return why a newcomer is not a node of this run, by what it has said; "" if it is one."""
        rank, proven = rank_in(said), said.partition(" ")[2]
        if not hmac.compare_digest(proven, proof(self.word, nonce, rank)):
            what = f"node {rank} does not know this run's word, which only user id {os.getuid()} may read"
            return f"{what}; start every node with that user id"
        if not 0 < rank < self.nodes:
            return f"node {rank} is not one of this run's {self.nodes} nodes, 0 to {self.nodes - 1}"
        if rank in self.peers and not self.had(rank):
            return f"node {rank} is there already: give each host a NODE_RANK of its own"
        return ""

    def had(self, rank: int) -> bool:
        """Whether a node was here in this attempt and is gone.

        If it comes again it is early for the next attempt. It is sent away without a reason, so it comes back until
        this program has ended.
        """
        if peer := self.peers.get(rank):
            peer.read()  # its end may have arrived together with the newcomer
        return peer is not None and bool(peer.lost)

    def name_run(self, name: str) -> None:
        """Answer every node that comes with the name of the run."""
        self.answer = f"run {name}"

    def refuse(self, reason: str) -> None:
        """Tell the other nodes that there is no run. Wait at most REFUSE_S for nodes that have not connected yet."""
        self.answer = f"failed {' / '.join(reason.splitlines())}"
        deadline = time.monotonic() + REFUSE_S
        while self.missing() and time.monotonic() < deadline:
            self.poll()
            time.sleep(0.1)
        self.close(well=True)

    def missing(self) -> list[int]:
        """Return the nodes that have not come yet."""
        return [rank for rank in range(1, self.nodes) if rank not in self.peers]

    def not_ready(self) -> list[int]:
        """Return the nodes that have not come yet, or have not said yet that they can begin."""
        return [rank for rank in range(1, self.nodes) if rank not in self.peers or not self.peers[rank].said("(ready)")]

    def tell(self, failure: Failure) -> None:
        """Tell all nodes why the run is broken: they look into the run directory now and then only."""
        for peer in self.peers.values():
            peer.say(f"broken {json.dumps(failure.to_json())}")

    def close(self, well: bool) -> None:
        """Close the connections, and stop listening."""
        super().close(well)
        for newcomer in self.newcomers:
            newcomer.connection.close()
        self.listener.close()


def rank_in(said: str) -> int:
    """Return the rank that a newcomer says it has."""
    return int(said.partition(" ")[0][:6])


class WorkerLink(Link):
    """Another node's side."""

    def __init__(self, rank: int, port: int, word: str = "") -> None:
        """`rank` is this node's; node 0 listens on `port`."""
        super().__init__()
        self.rank, self.port, self.word = rank, port, word
        self.has_proven = self.is_ready = False
        self.was_there = self.is_gone = False  # node 0
        self.why_not = ""  # node 0 could not be reached at the last attempt

    def poll(self) -> None:
        """Connect to node 0 if that has not been done yet, and receive what it has sent."""
        if not self.peers:
            try:
                connection = socket.create_connection((master_address(), self.port), CONNECT_TIMEOUT_S)
            except OSError as error:
                self.is_gone = self.was_there and isinstance(error, ConnectionRefusedError)
                self.why_not = str(error.strerror or error)
                return  # not there yet
            if (
                connection.getsockname() == connection.getpeername()
            ):  # the kernel has chosen this very port for our end, and connected us to ourselves
                connection.close()
                return
            self.peers[0], self.why_not = Peer(connection), ""
        super().poll()
        if self.peers[0].lost and self.run_name() is None and self.refusal() is None:
            # Node 0 had no room for this connection, or took it for a stranger's: another one may do.
            self.peers.pop(0).connection.close()
            self.has_proven = self.is_ready = False
            return
        if not self.has_proven and (nonce := self.peers[0].said(r"prove (\w+)")):
            self.has_proven = self.was_there = True
            self.peers[0].say(f"node {self.rank} {proof(self.word, nonce, self.rank)}")

    def lost_rank(self) -> int | None:
        """Return 0 if node 0 was lost, or None."""
        return 0 if self.is_gone else super().lost_rank()

    def lost(self) -> str | None:
        """Return how node 0 was lost, or None."""
        return "lost node 0 (its program is gone)" if self.is_gone else super().lost()

    @property
    def first_has_ended(self) -> bool:
        return self.is_gone or any(peer.lost for peer in self.peers.values())

    def ready(self) -> None:
        """Say that this node can begin, once it is connected."""
        if self.has_proven and not self.is_ready:
            self.is_ready = True
            self.peers[0].say("ready")

    def run_name(self) -> str | None:
        """Return the name of the run that node 0 works on, or None until node 0 has named it."""
        return self.peers[0].said("run (.+)") if self.peers else None

    def refusal(self) -> str | None:
        """Return why node 0 has no run, or None."""
        return self.peers[0].said("failed (.+)") if self.peers else None

    def broken(self) -> Failure | None:
        """Return why the run is broken, if node 0 has said so."""
        said = self.peers[0].said("broken (.+)") if self.peers else None
        return Failure.from_json(json.loads(said)) if said else None
