"""The NVIDIA GPUs of this machine, as the driver (NVML) reports them; none if there is no driver.

`facts` asks the driver; `chosen` decides which of them a process may use, as CUDA itself would with
CUDA_DEVICE_ORDER=PCI_BUS_ID, the order of `nvidia-smi`. The processes of a run are told their cards by UUID
(`environment`), so that what is planned and what trains are the same cards whatever CUDA's own order is.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Any

import psutil

MIG_SLICES = 7  # compute slices of a whole card that can be cut into instances (an A30 has 4)
BF16_SINCE = (8, 0)  # compute capability: Ampere. Older cards emulate bf16, slowly and not in every kernel.


@dataclass(frozen=True)
class Gpu:
    """One GPU at one moment, or one instance of a GPU that is cut into several (MIG)."""

    index: int  # of the card, in PCI order
    name: str
    load_percent: int
    used_gib: float
    total_gib: float
    temperature_c: int
    power_w: float
    driver: str
    uuid: str = ""
    capability: tuple[int, int] = (0, 0)  # (0, 0): not known
    share: float = 1.0  # of the card's processors, of an instance
    older_name: str = ""  # of an instance: what drivers before 470 call it
    cut: bool = False  # MIG is on: only its instances can be used
    instances: tuple[Gpu, ...] = ()

    @property
    def has_bf16(self) -> bool:
        """Whether it computes in bf16 itself."""
        return self.capability == (0, 0) or self.capability >= BF16_SINCE


def visible() -> list[Gpu]:
    """Return the GPUs that a process started here may use, in order: all, or those of CUDA_VISIBLE_DEVICES."""
    return chosen(facts(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def chosen(everything: list[Gpu], asked: str | None) -> list[Gpu]:
    """Return the GPUs that CUDA shows to a process whose CUDA_VISIBLE_DEVICES is `asked`; None: it is not set.

    The list ends at the first name that fits no GPU or several, at an index out of range and at -1. A GPU that is named
    twice makes the whole list empty. A process sees one instance of a cut GPU at most, and then no other GPU.
    """
    found: list[Gpu] = []
    for name in [str(gpu.index) for gpu in everything] if asked is None else asked.split(","):
        gpu = named(everything, name.strip())
        if gpu is None:
            break
        if gpu in found:
            return []
        found.append(gpu)
    cut = [gpu for gpu in found if gpu.cut or gpu.older_name]
    instances = [one for gpu in cut for one in (gpu.instances if gpu.cut else (gpu,))]
    return instances[:1] if instances else [gpu for gpu in found if not gpu.cut]


def named(everything: list[Gpu], name: str) -> Gpu | None:
    """Return the one GPU that CUDA takes a name for: an index, or the beginning of a UUID."""
    if name.startswith(("GPU-", "MIG-")):
        all_of_them = everything + [one for gpu in everything for one in gpu.instances]
        fitting = [gpu for gpu in all_of_them if gpu.uuid.startswith(name) or gpu.older_name == name]
        return fitting[0] if len(fitting) == 1 else None
    number = re.match(r"\+?\d+", name)  # CUDA reads the digits at the beginning
    return next((gpu for gpu in everything if number and gpu.index == int(number[0])), None)


def unused() -> str:
    """Return in words that CUDA_VISIBLE_DEVICES leaves GPUs out or names what is not there, otherwise ""."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = len(facts()) if asked is not None else 0
    return f" (CUDA_VISIBLE_DEVICES={asked}; `nvidia-smi -L` lists {there})" if there else ""


def environment(cards: list[Gpu]) -> dict[str, str]:
    """Return what a process needs to use these cards and no others, the first as its device 0."""
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(card.uuid for card in cards)}


# What the driver tells


def facts() -> list[Gpu]:
    """Return every GPU of this machine or container in PCI order, those in MIG mode with their instances."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        found = []
        for number in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(number)
                found.append((text(pynvml.nvmlDeviceGetPciInfo(handle).busId), handle))
            except pynvml.NVMLError:
                continue  # lost, or not for this user: CUDA does not count it either
        found.sort(key=lambda one: one[0])
        return [look(handle, index) for index, (_, handle) in enumerate(found)]
    finally:
        pynvml.nvmlShutdown()


def look(handle: object, index: int) -> Gpu:
    """Return a GPU's present state; what it cannot tell is 0."""
    import pynvml

    def ask(function: str, *arguments: object, of: object = handle, default: object = 0) -> Any:
        try:
            return getattr(pynvml, function)(of, *arguments)
        except pynvml.NVMLError:  # some boards have no sensor for it, some drivers do not know the function
            return default

    def memory_gib(of: object) -> tuple[float, float]:
        """Return what is used and all there is; of a GPU that shares the machine's memory, the machine's."""
        memory = ask("nvmlDeviceGetMemoryInfo", of=of, default=None)
        if memory is None:
            everything = psutil.virtual_memory()
            return (everything.total - everything.available) / 2**30, everything.total / 2**30
        return int(memory.used) / 2**30, int(memory.total) / 2**30

    load = ask("nvmlDeviceGetUtilizationRates", default=None)
    used_gib, total_gib = memory_gib(handle)
    major, minor = ask("nvmlDeviceGetCudaComputeCapability", default=(0, 0))
    card = Gpu(
        index=index,
        name=text(pynvml.nvmlDeviceGetName(handle)),
        load_percent=int(load.gpu) if load else 0,
        used_gib=used_gib,
        total_gib=total_gib,
        temperature_c=int(ask("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU)),
        power_w=ask("nvmlDeviceGetPowerUsage") / 1000,
        driver=text(pynvml.nvmlSystemGetDriverVersion()),
        uuid=text(pynvml.nvmlDeviceGetUUID(handle)),
        capability=(int(major), int(minor)),
    )
    if not any(ask("nvmlDeviceGetMigMode", default=(0, 0))[:1]):
        return card
    instances = []
    for number in range(int(ask("nvmlDeviceGetMaxMigDeviceCount"))):
        part = ask("nvmlDeviceGetMigDeviceHandleByIndex", number, default=None)
        if part is None:
            continue
        used_gib, total_gib = memory_gib(part)
        ids = [ask(f"nvmlDeviceGet{kind}InstanceId", of=part) for kind in ("Gpu", "Compute")]
        sizes = ask("nvmlDeviceGetAttributes", of=part, default=None)
        instances.append(
            replace(
                card,
                name=text(ask("nvmlDeviceGetName", of=part, default=f"{card.name} MIG")),
                load_percent=0,  # an instance's load is not told
                used_gib=used_gib,
                total_gib=total_gib,
                uuid=text(pynvml.nvmlDeviceGetUUID(part)),
                share=min(1.0, sizes.computeInstanceSliceCount / MIG_SLICES) if sizes else 1 / MIG_SLICES,
                older_name=f"MIG-{card.uuid}/{ids[0]}/{ids[1]}",
            )
        )
    return replace(card, cut=True, instances=tuple(instances))


def text(value: str | bytes) -> str:
    """Return a name as text; older bindings return bytes."""
    return value.decode() if isinstance(value, bytes) else value


# What NCCL needs


def have_no_peer_access(gpus: list[Gpu]) -> bool:
    """Tell whether NCCL must not try peer-to-peer copies.

    Drivers report peer access between GeForce RTX 40 cards and copies then hang or corrupt data (NCCL issue 969, and
    NVIDIA's statement that these cards do not support it). RTX 4000 to 6000 are other cards, for workstations, and have
    it. Between GeForce RTX 50 cards NCCL finds out by itself that there is none (NCCL issue 1637).
    """
    return any(re.search(r"\bGeForce RTX 40[5-9]0\b", gpu.name) for gpu in gpus)


def nccl_variables(gpus: list[Gpu]) -> dict[str, str]:
    """Return the environment that NCCL needs on these cards."""
    return {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"} if have_no_peer_access(gpus) else {}
