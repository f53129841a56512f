"""The started nodes of a run: what the pipeline wants to know of them under every launcher, and processes as nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Protocol

from sft import resources
from sft.host import gpus
from sft.host.launch import signals
from sft.run.directory import Run
from sft.settings.fields import Settings


class Nodes(Protocol):
    """The node programs of a run, in rank order."""

    def codes(self) -> list[int | None]:
        """Return each node's exit code, -N where signal N killed it, None as long as it is at work."""

    def end_now(self) -> None:
        """End them without a save."""


@dataclass
class LocalNodes:
    """Nodes that are processes of this machine."""

    processes: list[subprocess.Popen[bytes]]

    def codes(self) -> list[int | None]:
        """Return the exit codes."""
        return [process.poll() for process in self.processes]

    def end_now(self) -> None:
        """End them without a save."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGQUIT)


def start(run: Run, settings: Settings, cards: list[gpus.Gpu]) -> LocalNodes:
    """Start the node program for every node, each with its own cards. Secrets travel in the environment only."""
    processes = []
    for rank in range(settings.nodes):
        per_node = settings.gpus_per_node
        environment = {
            "OMP_NUM_THREADS": str(max(1, resources.cores() // settings.world_size)),
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
            **os.environ,
            **settings.secrets(),
            "MASTER_ADDR": "127.0.0.1",
        }
        if cards:
            environment |= gpus.environment(cards[rank * per_node : (rank + 1) * per_node])
        with (run.logs / f"node-{rank}.log").open("ab") as log, signals.held():
            process = subprocess.Popen(
                [sys.executable, "-m", "sft.host.launch.node", "--run", str(run.path), "--node-rank", str(rank)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # the node writes its log itself
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal is for the pipeline alone
            )
        processes.append(process)
    return LocalNodes(processes)
