"""Checks of the hardware: cores, main memory, disk, GPUs and their driver."""

from __future__ import annotations

import shutil
from typing import Literal

import psutil

from sft import resources
from sft.errors import UserError
from sft.host import gpus
from sft.host.check import Check
from sft.host.plan import shapes
from sft.settings.fields import TINY, Settings

MEMORY_LEAST_GB, DISK_LEAST_GB = 4, 5
# Bytes per trained weight of a checkpoint, and of the copy in main memory that it is written from: the weight, its fp32
# copy and two moments. And bytes per weight of a model that is downloaded or exported.
TRAINED_BYTES, WHOLE_BYTES = 16, 2


def cpu(settings: Settings) -> Check:
    """Check that there is a core for every rank."""
    cores = resources.cores()
    if cores < settings.world_size:
        remedy = "ranks take turns; fine for a trial"
        return Check("CPU", "warning", f"{cores} cores for {settings.world_size} ranks", remedy)
    return Check("CPU", "ok", f"{cores} cores")


def memory(settings: Settings) -> Check:
    """Check main memory: it holds the model, and the copy that a checkpoint is written from."""
    needed = needed_gb(settings, checkpoints=1)
    return amount("memory", psutil.virtual_memory().total / 1e9, MEMORY_LEAST_GB, needed, "`make plan` says more")


def disk(settings: Settings) -> Check:
    """Check the free space for checkpoints, the model and its export in RUNS_PATH."""
    path = settings.runs_path.absolute()
    while not path.exists():
        path = path.parent
    needed = needed_gb(
        settings, checkpoints=settings.keep_checkpoints + 1
    )  # the next one is written before one is removed
    free = shutil.disk_usage(path).free / 1e9
    return amount(f"free disk at {path}", free, DISK_LEAST_GB, needed, "lower KEEP_CHECKPOINTS or set RUNS_PATH")


def needed_gb(settings: Settings, checkpoints: int) -> float:
    """Return the gigabytes of a run's checkpoints, its model and its export; 0 if the model's size is unknown."""
    try:
        shape = shapes.find(settings)
    except UserError:
        shape = None
    if shape is None:
        return 0.0
    trained = shape.lora_weights(settings.lora_rank) if settings.lora_rank else shape.language_weights
    return (checkpoints * TRAINED_BYTES * trained + 2 * WHOLE_BYTES * shape.weights) / 1e9


def amount(name: str, found_gb: float, least_gb: float, needed_gb: float, remedy: str) -> Check:
    """Check an amount against the least for any run, and what these settings need (0: unknown)."""
    if found_gb < least_gb:
        return Check(name, "failure", f"{found_gb:,.0f} GB", f"{max(least_gb, needed_gb):,.0f} GB are needed")
    if found_gb < needed_gb:
        return Check(name, "warning", f"{found_gb:,.0f} GB, these settings need about {needed_gb:,.0f} GB", remedy)
    needs = f", these settings need about {needed_gb:,.0f} GB" if needed_gb > 1 else ""
    return Check(name, "ok", f"{found_gb:,.0f} GB{needs}")


def shared_memory(least_gb: float, remedy: str) -> Check:
    """Check the free space of /dev/shm, through which NCCL connects ranks without peer-to-peer copies."""
    gigabytes = shutil.disk_usage("/dev/shm").free / 1e9
    values = {"free_gb": round(gigabytes, 2)}
    if gigabytes < least_gb:
        return Check("/dev/shm", "failure", f"{gigabytes:.1f} GB free, NCCL needs {least_gb:g}", remedy, values=values)
    return Check("/dev/shm", "ok", f"{gigabytes:.1f} GB free", values=values)


def gpu(settings: Settings) -> Check:
    """Check that there is a GPU for every rank."""
    cards = gpus.visible()
    if not cards:
        level: Literal["ok", "failure"] = "ok" if settings.device == "cpu" or settings.model_name == TINY else "failure"
        remedy = "install NVIDIA's driver (`nvidia-smi` must work), or train on the CPU with `make demo`"
        return Check("GPUs", level, f"none visible{gpus.unused()}", remedy if level == "failure" else "")
    names = ", ".join(f"{card.index}: {card.name} {card.total_gib:.0f} GiB" for card in cards)
    if len(cards) < settings.world_size:
        remedy = f"set NODES=1 GPUS_PER_NODE={len(cards)}"
        wanted = f"NODES x GPUS_PER_NODE = {settings.world_size} needed{gpus.unused()}"
        return Check("GPUs", "failure", f"{names}; {wanted}", remedy)
    return Check("GPUs", "ok", names)
