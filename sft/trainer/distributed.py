"""The ranks and their collectives: the only file that touches `torch.distributed`.

Every function here is collective: all ranks must call it, in the same order.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as torch_distributed

from sft.errors import SettingsError, wrong

T = TypeVar("T")
NO_LIMIT = timedelta(days=365)  # longer than the heartbeat's, whatever STEP_TIMEOUT_S is


@dataclass(frozen=True)
class World:
    """This rank's place among all ranks."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes what the run has once."""
        return self.rank == 0


def start(device: str, timeout_s: int) -> World:
    """Join the other ranks (all ranks). `device` is cuda (over NCCL) or cpu (over gloo).

    A rank that waits longer than `timeout_s` for another one to join raises. Once all have joined, collectives have no
    time limit. Raises SettingsError if another program has taken MASTER_PORT since it was checked.
    """
    import deepspeed

    # DeepSpeed's shared-memory op is for all-reduce on a CPU within one node. Without it DeepSpeed compiles nothing,
    # which saves a minute at the first start, and no compiler is needed. A new dict, because DeepSpeed fills its own by
    # trying every op, and where there is a GPU and no nvcc it warns of each one that it could not build.
    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    rank, local_rank, world_size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    if device == "cuda":
        torch.cuda.set_device(local_rank)
        # torch prefers cuDNN's attention on some GPUs. It makes a plan for every new shape: 75 ms a token of an answer.
        torch.backends.cuda.enable_cudnn_sdp(False)
        where = torch.device("cuda", local_rank)
        # DeepSpeed asks NVML by the numbers in CUDA_VISIBLE_DEVICES. Here it holds UUIDs.
        deepspeed.accelerator.get_accelerator().available_memory = free_memory
    else:
        where = torch.device("cpu")
    try:
        deepspeed.init_distributed(
            dist_backend="nccl" if device == "cuda" else "gloo",
            auto_mpi_discovery=False,
            verbose=False,
            timeout=timedelta(seconds=timeout_s),
        )
    except dist.DistNetworkError as error:
        if errno.errorcode[errno.EADDRINUSE] not in str(error):
            raise
        what = "has been taken by another program since the start"
        raise SettingsError([wrong("MASTER_PORT", os.environ["MASTER_PORT"], what, "choose another port")]) from None
    wait_without_limit()
    return World(rank, local_rank, world_size, where)


def free_memory(device_index: int | None = None) -> int:
    """Return the free bytes of a GPU's memory; None means this rank's GPU."""
    return torch.cuda.mem_get_info(device_index)[0]


def wait_without_limit() -> None:
    """Remove the time limit of collectives in all process groups that exist now.

    Ranks may have to wait for long: rank 0 exports for as long as its disk takes, and the others wait in a barrier.
    Whether a rank hangs, the node program judges by the run's progress (STEP_TIMEOUT_S). DeepSpeed's engine makes
    groups with torch's default limit, 10 minutes over NCCL, so this is called again after it has started.
    """
    for group in list(torch_distributed._world.pg_map):
        torch_distributed._set_pg_timeout(NO_LIMIT, group)
    torch_distributed._get_default_store().set_timeout(NO_LIMIT)  # NCCL groups rendezvous at their first use


def end() -> None:
    """Leave the process group (all ranks)."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all ranks (all ranks)."""
    dist.barrier()


def add_up(tensor: torch.Tensor) -> None:
    """Replace `tensor` by its sum over all ranks (all ranks)."""
    dist.all_reduce(tensor)


def gather_into(whole: torch.Tensor, part: torch.Tensor) -> None:
    """Fill `whole` with every rank's `part`, in rank order (all ranks)."""
    dist.all_gather_into_tensor(whole, part)


class Pending:
    """An asynchronous copy from the device to the host: the host does not wait for queued GPU work."""

    def __init__(self, values: torch.Tensor) -> None:
        """Queue the copy of a one-dimensional tensor behind the work that the device has now."""
        self.values, self.arrived = values, None
        if values.is_cuda:
            self.values = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    @property
    def ready(self) -> bool:
        """Whether the copy has arrived."""
        return self.arrived is None or self.arrived.query()

    def read(self) -> list[float]:
        """Return the numbers. Waits for the copy if it has not arrived."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.values.tolist()


def start_total(values: Sequence[float | torch.Tensor], world: World) -> Pending:
    """Start to sum each value over all ranks (all ranks), in float64."""
    tensor = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=world.device) for value in values])
    if world.world_size > 1:  # a rank alone needs no process group
        add_up(tensor)
    return Pending(tensor)


def total(values: Sequence[float | torch.Tensor], world: World) -> list[float]:
    """Return the sum of each value over all ranks (all ranks)."""
    return start_total(values, world).read()


def of_first(value: T, world: World) -> T:
    """Return the first rank's `value` (all ranks). It pickles.

    For what is looked up in the run directory and decides what the ranks do together: over NFS, another machine may not
    see for half a minute what has just been written.
    """
    if world.world_size == 1:  # a rank alone needs no process group
        return value
    first: T = gather(value if world.is_main else None)[0]
    return first


def gather(value: Any) -> list[Any]:
    """Return every rank's `value`, in rank order (all ranks). For small objects: it pickles."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
