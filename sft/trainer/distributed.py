"""The ranks: the only file that touches `torch.distributed`.

Every function here is collective: all ranks must call it, in the same order.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from sft.errors import SettingsError, wrong


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
    """Meet the other ranks (all ranks). `device` is cuda (over NCCL) or cpu (over gloo).

    A rank that waits longer than `timeout_s` for another one raises, so that a dead peer ends the run. Raises
    SettingsError where another program has taken the port since it was looked at.
    """
    import deepspeed

    # The shared-memory op only serves all-reduce between the ranks of a single node on CPU. Without it DeepSpeed
    # compiles nothing, which saves a minute at the first start and the need for a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    rank, local_rank, world_size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    if device == "cuda":
        torch.cuda.set_device(local_rank)
        # torch prefers it on some GPUs, and it makes a plan for every new shape: 75 ms for every token of an answer.
        torch.backends.cuda.enable_cudnn_sdp(False)
        where = torch.device("cuda", local_rank)
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
    return World(rank, local_rank, world_size, where)


def end() -> None:
    """Leave the group (all ranks)."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all ranks (all ranks)."""
    dist.barrier()


def add_up(tensor: torch.Tensor) -> None:
    """Replace `tensor` by its sum over all ranks (all ranks)."""
    dist.all_reduce(tensor)


class Pending:
    """Numbers on their way from the device to the host, so that nothing waits for what the device has still to do."""

    def __init__(self, values: torch.Tensor) -> None:
        """Start the copy of a tensor of one dimension behind the work that the device has now."""
        self.values, self.arrived = values, None
        if values.is_cuda:
            self.values = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    @property
    def ready(self) -> bool:
        """Whether they are there."""
        return self.arrived is None or self.arrived.query()

    def read(self) -> list[float]:
        """Return the numbers, waiting for them if need be."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.values.tolist()


def start_total(values: Sequence[float | torch.Tensor], world: World) -> Pending:
    """Start to add up each value over all ranks (all ranks)."""
    tensor = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=world.device) for value in values])
    add_up(tensor)
    return Pending(tensor)


def total(values: Sequence[float | torch.Tensor], world: World) -> list[float]:
    """Return the sum of each value over all ranks (all ranks)."""
    return start_total(values, world).read()


def gather(value: Any) -> list[Any]:
    """Return every rank's `value`, in rank order (all ranks). For small objects: it pickles."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def lost_a_peer(error: BaseException) -> bool:
    """Tell whether an error only says that another rank is gone, so that it is not the reason of a failure."""
    text = str(error).lower()
    words = ("connection reset", "connection closed", "connection refused", "broken pipe", "timed out", "nccl", "gloo")
    return isinstance(error, RuntimeError) and any(word in text for word in words)
