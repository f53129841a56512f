"""Check that ranks can meet and all-reduce: `python -m sft.trainer.probe --device cpu`, in a rank's environment.

Rank 0 prints one JSON line: how fast the ranks reduce and gather, and copy between a GPU and the machine's memory.
"""

from __future__ import annotations

from sft.trainer import process

if __name__ == "__main__":
    process.begin()

import argparse
import json
import time
from collections.abc import Callable

import torch

from sft.errors import RunFailed
from sft.run.records import LinkSpeeds
from sft.trainer import distributed
from sft.trainer.distributed import World

TIMEOUT_S = 60
REPEATS = 5
MIB = {"cuda": 256, "cpu": 64}  # of the tensors: those of ZeRO's buckets are some hundreds of MB


def main() -> None:
    """Join the ranks, check a sum over all of them, and print how fast they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=tuple(MIB), required=True)
    parser.add_argument("--nodes", type=int, default=1)
    arguments = parser.parse_args()
    world = distributed.start(arguments.device, TIMEOUT_S)
    values = torch.full((MIB[arguments.device] * 2**18,), world.rank + 1.0, device=world.device)
    distributed.add_up(values)
    expected = world.world_size * (world.world_size + 1) / 2
    if not bool((values == expected).all()):
        raise RunFailed(f"rank {world.rank}: an all-reduce gave {values[0].item()} instead of {expected}")
    found = speeds(values, world, arguments.nodes)
    if world.is_main:
        print(json.dumps(found.to_json()), flush=True)
    distributed.end()


def speeds(values: torch.Tensor, world: World, nodes: int) -> LinkSpeeds:
    """Return what the ranks measure together (all ranks)."""
    others = (world.world_size - 1) / world.world_size
    part = values[: values.numel() // world.world_size].clone()
    whole = values[: part.numel() * world.world_size]
    on_gpu = world.device.type == "cuda"
    pinned = torch.empty_like(values, device="cpu", pin_memory=True) if on_gpu else values
    return LinkSpeeds(
        ranks=world.world_size,
        nodes=nodes,
        backend="nccl" if on_gpu else "gloo",
        all_reduce_gb_s=gb_s(lambda: distributed.add_up(values), 2 * others * values.nbytes, world),
        gather_gb_s=gb_s(lambda: distributed.gather_into(whole, part), others * whole.nbytes, world),
        to_gpu_gb_s=gb_s(lambda: values.copy_(pinned, non_blocking=True), values.nbytes, world) if on_gpu else 0.0,
        from_gpu_gb_s=gb_s(lambda: pinned.copy_(values, non_blocking=True), values.nbytes, world) if on_gpu else 0.0,
    )


def gb_s(work: Callable[[], object], moved_bytes: float, world: World) -> float:
    """Return how fast all ranks do something at once that moves so many bytes on each (all ranks)."""
    if not moved_bytes:
        return 0.0
    work()
    wait(world)
    distributed.barrier()
    started = time.perf_counter()
    for _ in range(REPEATS):
        work()
    wait(world)
    return round(moved_bytes * REPEATS / (time.perf_counter() - started) / 1e9, 3)


def wait(world: World) -> None:
    """Wait for what the GPU has to do."""
    if world.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
