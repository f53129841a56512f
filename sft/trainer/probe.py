"""Check that ranks can meet and all-reduce: `python -m sft.trainer.probe --device cpu`, in a rank's environment.

Rank 0 prints one JSON line: ranks, backend, and the bandwidth of an all-reduce.
"""

from __future__ import annotations

from sft.trainer import process

if __name__ == "__main__":
    process.begin()

import argparse
import json
import time

import torch

from sft.errors import RunFailed
from sft.trainer import distributed

TIMEOUT_S = 60
REPEATS = 5


def main() -> None:
    """Join the ranks, all-reduce a tensor, check the sum, and print the bandwidth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--mib", type=int, default=64, help="size of the tensor")
    arguments = parser.parse_args()
    world = distributed.start(arguments.device, TIMEOUT_S)
    values = torch.full((arguments.mib * 2**18,), world.rank + 1.0, device=world.device)
    distributed.add_up(values)
    expected = world.world_size * (world.world_size + 1) / 2
    if not bool((values == expected).all()):
        raise RunFailed(f"rank {world.rank}: an all-reduce gave {values[0].item()} instead of {expected}")
    started = time.perf_counter()
    for _ in range(REPEATS):
        distributed.add_up(values)
    if world.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / REPEATS
    # Bus bandwidth as nccl-tests define it: the bytes that each link carries in a ring, per second.
    moved = values.nbytes * 2 * (world.world_size - 1) / world.world_size
    if world.is_main:
        backend = "nccl" if arguments.device == "cuda" else "gloo"
        found = {"ranks": world.world_size, "backend": backend, "busbw_gb_s": round(moved / seconds / 1e9, 2)}
        print(json.dumps(found), flush=True)
    distributed.end()


if __name__ == "__main__":
    main()
