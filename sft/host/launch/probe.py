"""Ranks that really meet and all-reduce: start sft.trainer.probe as some of them, and read what they print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from sft.host import gpus
from sft.host.check import Check
from sft.run.records import LinkSpeeds

PROBE_TIMEOUT_S = 180


@dataclass(frozen=True)
class Probe:
    """How the ranks that were started here ended."""

    outputs: list[str]  # of each rank
    succeeded: bool

    @property
    def speeds(self) -> LinkSpeeds | None:
        """What rank 0 measured; None if it is not here or said nothing."""
        lines = [line for line in self.outputs[0].splitlines() if line.startswith('{"ranks"')]
        return LinkSpeeds.from_json(json.loads(lines[0])) if lines else None

    @property
    def last_line(self) -> str:
        """The last line of the first rank that printed anything."""
        return (next(filter(None, map(str.strip, self.outputs)), "") or "no output").splitlines()[-1]


def probe(device: str, ranks: range, world_size: int, nodes: int = 1, **environment: str) -> Probe | None:
    """Run the ranks of this node, and wait for their end; None if they have not met or added in PROBE_TIMEOUT_S."""
    common = dict(os.environ) | environment | {"WORLD_SIZE": str(world_size)}
    if device == "cpu":
        common["DS_ACCELERATOR"] = "cpu"
    else:
        cards = gpus.visible()[: len(ranks)]
        common |= gpus.nccl_variables(cards) | gpus.environment(cards)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "sft.trainer.probe", "--device", device, "--nodes", str(nodes)],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(local)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for local, rank in enumerate(ranks)
    ]
    try:
        outputs = [process.communicate(timeout=PROBE_TIMEOUT_S)[0] for process in processes]
    except subprocess.TimeoutExpired:
        return None
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return Probe(outputs, not any(process.returncode for process in processes))


def measured(speeds: LinkSpeeds, device: str) -> Check:
    """Return the check of ranks that have met: the values behind its words are kept for the plan."""
    ranks = f"{speeds.ranks} ranks" + (f" of {speeds.nodes} nodes" if speeds.nodes > 1 else "")
    found = f"{ranks} on {device} over {speeds.backend}, {speeds.all_reduce_gb_s:g} GB/s"
    if speeds.ranks == 1:
        found = f"one rank on {device} over {speeds.backend}"
    if speeds.to_gpu_gb_s:
        found += f"; to a GPU {speeds.to_gpu_gb_s:g}, from it {speeds.from_gpu_gb_s:g} GB/s"
    values = {name: value for name, value in speeds.to_json().items() if isinstance(value, int | float | str)}
    return Check("all-reduce", "ok", found, values=values)
