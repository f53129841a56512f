"""Checks of the hardware: cores, main memory, disk, GPUs and their driver."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from sft import resources
from sft.errors import SettingsError
from sft.host import gpus, limits
from sft.host.check import Check
from sft.host.launch import launcher
from sft.host.plan import disk, lookup
from sft.nouns import counted
from sft.settings.fields import TINY, Settings
from sft.settings.stages import Resolved, resolve

MEMORY_LEAST_BYTES = 2e9
# Per weight of a run on the CPU: weight, gradient, fp32 copy and two moments, and the copy of a save. ASSUMED.
CPU_BYTES = 28


def cpu(settings: Settings) -> Check:
    """Check that there is a core for every rank."""
    cores = resources.cores()
    if cores < settings.world_size:
        remedy = "ranks take turns: use fewer of them, except for a trial"
        return Check("CPU", "warning", f"{counted(cores, 'core')} for {settings.world_size} ranks", remedy)
    return Check("CPU", "ok", counted(cores, "core"))


def memory(settings: Settings) -> Check:
    """Check main memory for a run on the CPU, where it holds everything. The plan knows what a run on GPUs needs."""
    free = resources.available_bytes()
    weights = lookup.weights_of(settings) if settings.device == "cpu" or not gpus.visible() else None
    needed = CPU_BYTES * weights if weights else 0
    values = {"free_bytes": free, "needed_bytes": needed}
    if free < max(needed, MEMORY_LEAST_BYTES):
        what = f"{disk.size(free)} free, about {disk.size(max(needed, MEMORY_LEAST_BYTES))} are needed"
        return Check("memory", "warning", what, "end other programs, or use a smaller model", values=values)
    return Check("memory", "ok", f"{disk.size(free)} free", values=values)


def process_limits(_: Settings) -> Check:
    """Check the limits of this shell that could end a run in the middle."""
    if found := limits.lines():
        return Check("limits", "warning", "; ".join(found), limits.REMEDY)
    return Check("limits", "ok", "none on CPU time, files and address space")


def disks(settings: Settings) -> Iterator[Check]:
    """Check the free space of each file system that a run writes to."""
    try:
        needed = disk.need(resolved(settings))
    except SettingsError:  # the settings contradict each other, which another check says
        needed = None
    for place in disk.places(settings, needed):
        where = ", ".join(place.settings)
        values: dict[str, int | float | str] = {"settings": where, "free_bytes": place.free}
        if needed is None:
            found = f"{disk.size(place.free)} free for {where}; what is needed is not known yet"
            yield Check("disk", "ok", found, values=values)
            continue
        values |= {"needed_bytes": round(place.needed), "checkpoint_bytes": round(needed.checkpoint)}
        if place.fits:
            words = f": {needed.words}" if "RUNS_PATH" in place.settings else ""
            found = f"{disk.size(place.free)} free for {where}, this run needs {disk.size(place.needed)}{words}"
            yield Check("disk", "ok", found, values=values)
        else:
            what, remedy = disk.problem(needed, place)
            yield Check("disk", "failure", f"{where}: {what}", remedy, values=values)


def resolved(settings: Settings) -> Resolved:
    """Return the settings for the device that a run would have. Raises SettingsError."""
    on_gpu = settings.device == "cuda" or (settings.device == "auto" and settings.model_name != TINY)
    return resolve(settings, "cuda" if on_gpu or gpus.visible() else "cpu", launcher.would_be(settings).name)


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
    kinds = Counter(f"{card.name}, {card.total_gib:.0f} GiB" for card in cards)
    names = "; ".join(f"{number} x {kind}" for kind, number in kinds.items())
    if len(cards) < settings.world_size:
        remedy = f"set NODES=1 GPUS_PER_NODE={len(cards)}"
        wanted = f"NODES x GPUS_PER_NODE = {settings.world_size} needed{gpus.unused()}"
        return Check("GPUs", "failure", f"{names}; {wanted}", remedy)
    return Check("GPUs", "ok", names)
