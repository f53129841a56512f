"""What a step moves between GPUs: the sizes and times of NCCL's kernels, from torch's profiler."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from sft.trainer import distributed

ELEMENT_BYTES = {"BFloat16": 2, "Half": 2, "Float": 4, "Double": 8, "Long": 8, "Int": 4, "Byte": 1}
RING = {"allgather": 1, "reducescatter": 1, "allreduce": 2}  # passes of (ranks - 1) / ranks of the larger side


def profiled(function: Callable[[], Any]) -> list[dict[str, Any]]:
    """Run a function; return the events of NCCL's kernels in its trace, with arguments and durations in us."""
    with torch.profiler.profile() as profile:
        function()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return [event for event in events if event.get("cat") == "kernel" and "nccl" in event["name"].lower()]


def moved(kernels: Iterable[dict[str, Any]]) -> tuple[float, float]:
    """Return the bytes that this rank sent, and the seconds that sending took (all ranks).

    In a ring each rank sends (ranks - 1) / ranks of the bytes that are gathered or scattered, and twice that in an
    all-reduce (the nccl-tests' notes on bus bandwidth). A kernel waits until the last rank has started its own, so the
    shortest kernel of all ranks is the one that only sent.
    """
    sent = 0.0
    durations = []
    for kernel in sorted(kernels, key=lambda kernel: float(kernel["ts"])):
        about = kernel["args"]
        collective = about.get("Collective name", "").replace("_", "")
        passes = next((number for name, number in RING.items() if name in collective), 0)
        ranks = about.get("Group size", 1)
        elements = max(about.get("In msg nelems", 0), about.get("Out msg nelems", 0))
        sent += passes * elements * ELEMENT_BYTES.get(about.get("dtype", ""), 4) * (ranks - 1) / ranks
        durations.append(kernel["dur"] / 1e6)
    by_rank = distributed.gather(durations)
    return sent, sum(map(min, zip(*by_rank, strict=True)))
