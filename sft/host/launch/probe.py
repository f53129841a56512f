"""Ranks that really meet and all-reduce: start sft.trainer.probe as some of them, and read what they print."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TextIO

from sft.host import gpus
from sft.host.check import Check
from sft.run.records import LinkSpeeds

PROBE_TIMEOUT_S = 180
ENDING_S = 5  # for the others to say how they end, once a rank has failed
POLL_S = 0.1


@dataclass(frozen=True)
class Probe:
    """How the ranks that were started here ended."""

    outputs: list[str]  # of each rank
    failed: int | None = None  # the first of them that failed; others fail only because of it

    @property
    def speeds(self) -> LinkSpeeds | None:
        """What rank 0 measured; None if it is not here or said nothing."""
        lines = [line for line in self.outputs[0].splitlines() if line.startswith('{"ranks"')]
        return LinkSpeeds.from_json(json.loads(lines[0])) if lines else None

    @property
    def last_line(self) -> str:
        """The last line of the rank that failed, or else of the first rank that printed anything."""
        first = [] if self.failed is None else [self.outputs[self.failed]]
        return (next(filter(None, map(str.strip, first + self.outputs)), "") or "no output").splitlines()[-1]


def probe(device: str, ranks: range, world_size: int, nodes: int = 1, **environment: str) -> Probe | None:
    """Run the ranks of this node, and wait for their end; None if they have not met or added in PROBE_TIMEOUT_S.

    If one fails, the others would wait for it: they get ENDING_S more.
    """
    common = dict(os.environ) | environment | {"WORLD_SIZE": str(world_size)}
    if device == "cpu":
        common["DS_ACCELERATOR"] = "cpu"
    else:
        cards = gpus.visible()[: len(ranks)]
        common |= gpus.nccl_variables(cards) | gpus.environment(cards)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+", errors="replace")) for _ in ranks]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "sft.trainer.probe", "--device", device, "--nodes", str(nodes)],
                env=common | {"RANK": str(rank), "LOCAL_RANK": str(local)},
                stdout=files[local],
                stderr=subprocess.STDOUT,
            )
            for local, rank in enumerate(ranks)
        ]
        try:
            failed = first_failure(processes)
        except TimeoutError:
            return None
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return Probe([read(file) for file in files], failed)


def first_failure(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """Wait for the end of all ranks. Return the first that failed, or None. Raises TimeoutError if they hang."""
    failed, deadline = None, time.monotonic() + PROBE_TIMEOUT_S
    while None in (codes := [process.poll() for process in processes]) and time.monotonic() < deadline:
        if failed is None and any(codes):
            failed = first_of(codes)
            deadline = time.monotonic() + ENDING_S
        time.sleep(POLL_S)
    if failed is None and None in codes:
        raise TimeoutError
    return first_of(codes) if failed is None else failed


def first_of(codes: list[int | None]) -> int | None:
    """Return the first rank whose exit code is that of a failure."""
    return next((rank for rank, code in enumerate(codes) if code), None)


def read(file: TextIO) -> str:
    """Return what a rank has printed."""
    file.seek(0)
    return file.read()


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
