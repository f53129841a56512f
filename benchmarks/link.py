"""What a step moves between GPUs: the sizes and times of NCCL's kernels, from torch's profiler."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from sft.trainer import distributed

ELEMENT_BYTES = {"BFloat16": 2, "Half": 2, "Float": 4, "Double": 8, "Long": 8, "Int": 4, "Byte": 1}
RING = {"allgather": 1, "reducescatter": 1, "allreduce": 2}  # passes of (ranks - 1) / ranks of the larger side


@dataclass(frozen=True)
class Kernel:
    """One of NCCL's kernels in a trace. Times in seconds."""

    started: float
    duration: float
    passes: int  # of (ranks - 1) / ranks of the bytes; 0 for a collective that is not in RING
    ranks: int
    bytes: int  # of the larger side

    @classmethod
    def of(cls, started_us: float, duration_us: float, about: Mapping[str, str | int]) -> Kernel:
        """Return the kernel of an event with these arguments."""
        collective = str(about.get("Collective name", "")).replace("_", "")
        elements = max(int(about.get("In msg nelems", 0)), int(about.get("Out msg nelems", 0)))
        return cls(
            started_us / 1e6,
            duration_us / 1e6,
            passes=next((number for name, number in RING.items() if name in collective), 0),
            ranks=int(about.get("Group size", 1)),
            bytes=elements * ELEMENT_BYTES.get(str(about.get("dtype", "")), 4),
        )


@dataclass(frozen=True)
class Trace:
    """What a GPU did: NCCL's kernels, and when it computed or copied, as (from, to) in seconds."""

    link: list[Kernel]
    work: list[tuple[float, float]]

    @property
    def exposed_s(self) -> float:
        """Seconds in which the GPU did nothing but communicate, or wait for other ranks to."""
        spans = [(kernel.started, kernel.started + kernel.duration) for kernel in self.link]
        return covered([*spans, *self.work]) - covered(self.work)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return how long at least one of several spans of time lasts."""
    total, end = 0.0, -math.inf
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def profiled(function: Callable[[], object]) -> Trace:
    """Run a function; return the trace of this rank's GPU."""
    with torch.profiler.profile() as profile:
        function()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    trace = Trace([], [])
    for event in events:
        if event.get("cat") not in ("kernel", "gpu_memcpy", "gpu_memset"):
            continue
        if "nccl" in event["name"].lower():
            trace.link.append(Kernel.of(float(event["ts"]), event["dur"], event["args"]))
        else:
            start = float(event["ts"]) / 1e6
            trace.work.append((start, start + event["dur"] / 1e6))
    return trace


def moved(kernels: Iterable[Kernel]) -> tuple[float, float]:
    """Return the bytes that this rank sent, and the seconds that sending took (all ranks).

    In a ring each rank sends (ranks - 1) / ranks of the bytes that are gathered or scattered, and twice that in an
    all-reduce (the nccl-tests' notes on bus bandwidth). A kernel waits until the last rank has started its own, so the
    shortest kernel of all ranks is the one that only sent.
    """
    in_order = sorted(kernels, key=lambda kernel: kernel.started)
    sent = sum(kernel.passes * kernel.bytes * (kernel.ranks - 1) / kernel.ranks for kernel in in_order)
    by_rank = distributed.gather([kernel.duration for kernel in in_order])
    return sent, sum(map(min, zip(*by_rank, strict=True)))


def least_exposed_s(trace: Trace) -> float:
    """Return the exposed seconds of the rank that waited least for the others (all ranks)."""
    return min(distributed.gather(trace.exposed_s))
