"""The nodes of a run: their names, slots and the hostfile that DeepSpeed's launcher reads."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from pathlib import Path

from sft.errors import SettingsError, UserError, wrong
from sft.nouns import counted

MASTER = "llm-master"
WORKER = "llm-worker"


def node_names(nodes: int) -> list[str]:
    """Return the names of the nodes in rank order: first the master, then the workers."""
    workers = [WORKER] if nodes == 2 else [f"{WORKER}-{i}" for i in range(1, nodes)]
    return [MASTER, *workers]


def hostfile(nodes: int, slots: int, names: Sequence[str] = ()) -> str:
    """Return a hostfile with `slots` ranks on each of `nodes` nodes, which may have names of their own.

    Every node has the same number of slots: DeepSpeed's launcher computes ``local_rank = rank % slots``, which is wrong
    if they differ.
    """
    return "".join(f"{name} slots={slots}\n" for name in names or node_names(nodes))


def read_hostfile(path: Path) -> dict[str, int]:
    """Return the slots of each node, in file order.

    Raises UserError for a file that is missing, empty, malformed or has unequal slots. If the file is missing,
    DeepSpeed's launcher would only warn, and train on the local devices alone.
    """
    if not path.is_file():
        raise UserError(f"{path}: the hostfile is missing; `make resume NAME={path.parent.name}` writes it again")
    slots: dict[str, int] = {}
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        match = re.fullmatch(r"(\S+)\s+slots=([1-9]\d*)", text)
        if not match:
            raise UserError(f"{path}:{number}: {text!r} is not a hostfile line; write `name slots=N`")
        if match[1] in slots:
            raise UserError(f"{path}:{number}: {match[1]} is named twice; give each node one line")
        slots[match[1]] = int(match[2])
    if not slots:
        raise UserError(f"{path}: the hostfile has no nodes; write a line `name slots=N` for each node")
    if len(set(slots.values())) > 1:
        raise UserError(f"{path}: unequal slots {slots}; give every node the same number of slots")
    return slots


def agree(nodes: int, gpus_per_node: int, slots: dict[str, int]) -> None:
    """Raise SettingsError if a hostfile's slots differ from the settings, naming both."""
    problems = []
    if len(slots) != nodes:
        what = f"the hostfile names {counted(len(slots), 'node')}, {', '.join(slots)}"
        problems.append(wrong("NODES", nodes, what, f"set NODES={len(slots)}, or start a new run with FRESH=1"))
    for name, number in slots.items():
        if number != gpus_per_node:
            what = f"the hostfile says {name} slots={number}"
            remedy = f"set GPUS_PER_NODE={number}, or start a new run with FRESH=1"
            problems.append(wrong("GPUS_PER_NODE", gpus_per_node, what, remedy))
            break
    if problems:
        raise SettingsError(problems)


def link_port(master_port: int) -> int:
    """Return the port on which the node programs meet: the one after that of the ranks."""
    return master_port + 1


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether a server could listen on a port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
