"""The NVIDIA GPUs of this machine, as the driver (NVML) reports them; none if there is no driver.

`facts` asks the driver; `chosen` decides which of them a process may use, as CUDA itself would with
CUDA_DEVICE_ORDER=PCI_BUS_ID, the order of `nvidia-smi`. The processes of a run are told their cards by UUID
(`environment`), so that a run trains on the cards that it was planned for, whatever CUDA's own order is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

MIG_SLICES = 7  # compute slices of a whole card that can be divided into instances (an A30 has 4)
BF16_SINCE = (8, 0)  # compute capability: Ampere. Older cards emulate bf16, slowly and not in every kernel.


@dataclass(frozen=True)
class Gpu:
    """One GPU at one moment, or one instance of a GPU that is divided into several (MIG)."""

    index: int  # of the card, in PCI order
    name: str
    load_percent: int
    used_gib: float
    total_gib: float
    temperature_c: int
    power_w: float
    driver: str
    uuid: str = ""
    capability: tuple[int, int] = (0, 0)  # (0, 0): unknown
    share: float = 1.0  # of the card's processors that an instance has
    older_name: str = ""  # of an instance, before driver 470
    in_mig_mode: bool = False  # only the instances can be used
    instances: tuple[Gpu, ...] = ()

    @property
    def has_bf16(self) -> bool:
        """Whether it computes in bf16 by itself, without emulation."""
        return self.capability == (0, 0) or self.capability >= BF16_SINCE


def visible() -> list[Gpu]:
    """Return the GPUs that a process started here may use, in order: all, or those of CUDA_VISIBLE_DEVICES."""
    return chosen(facts(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def chosen(everything: list[Gpu], visible_devices: str | None) -> list[Gpu]:
    """Return the GPUs that CUDA shows to a process whose CUDA_VISIBLE_DEVICES is `visible_devices` (None: not set).

    The list ends at the first name that matches no GPU or several, at an index out of range and at -1. A GPU that is
    named twice makes the whole list empty. A process sees at most one MIG instance, and then no other GPU.
    """
    found: list[Gpu] = []
    for name in [str(gpu.index) for gpu in everything] if visible_devices is None else visible_devices.split(","):
        gpu = named(everything, name.strip())
        if gpu is None:
            break
        if gpu in found:
            return []
        found.append(gpu)
    with_mig = [gpu for gpu in found if gpu.in_mig_mode or gpu.older_name]
    instances = [one for gpu in with_mig for one in (gpu.instances if gpu.in_mig_mode else (gpu,))]
    return instances[:1] if instances else [gpu for gpu in found if not gpu.in_mig_mode]


def named(everything: list[Gpu], name: str) -> Gpu | None:
    """Return the one GPU that a name means to CUDA: by index, or by the beginning of its UUID."""
    if name.startswith(("GPU-", "MIG-")):
        with_instances = everything + [one for gpu in everything for one in gpu.instances]
        fitting = [gpu for gpu in with_instances if gpu.uuid.startswith(name) or gpu.older_name == name]
        return fitting[0] if len(fitting) == 1 else None
    number = re.match(r"\+?\d+", name)  # CUDA reads the digits at the beginning
    return next((gpu for gpu in everything if number and gpu.index == int(number[0])), None)


def unused() -> str:
    """Return the hint that CUDA_VISIBLE_DEVICES hides GPUs or names missing ones; "" if it is not set."""
    visible_devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = len(facts()) if visible_devices is not None else 0
    return f" (CUDA_VISIBLE_DEVICES={visible_devices}; `nvidia-smi -L` lists {there})" if there else ""


def environment(cards: list[Gpu]) -> dict[str, str]:
    """Return the variables with which a process uses these cards and no others, the first as its device 0."""
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(card.uuid for card in cards)}


# What the driver says


def facts() -> list[Gpu]:
    """Return every GPU of this machine or container in PCI order, those in MIG mode with their instances."""
    with handles() as found:
        return [card_of(handle, index) for index, handle in enumerate(found)]


@contextlib.contextmanager
def handles() -> Iterator[list[object]]:
    """Yield NVML's handle of every GPU in PCI order, with NVML at work; none without a driver."""
    if not has_driver():
        yield []
        return
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield []
        return
    try:
        found: list[tuple[str, object]] = []
        for number in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(number)
                found.append((text(pynvml.nvmlDeviceGetPciInfo(handle).busId), handle))
            except pynvml.NVMLError:
                continue  # lost, or not accessible to this user: CUDA does not count it either
        found.sort(key=lambda one: one[0])
        yield [handle for _, handle in found]
    finally:
        pynvml.nvmlShutdown()


def has_driver() -> bool:
    """Tell whether the library is here that pynvml would load: importing pynvml takes longer than a look at a run."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def card_of(handle: object, index: int) -> Gpu:
    """Return the present state of a GPU; values that the driver does not know are 0."""
    import pynvml

    load = ask("nvmlDeviceGetUtilizationRates", handle, default=None)
    used_gib, total_gib = memory_gib(handle)
    major, minor = ask("nvmlDeviceGetCudaComputeCapability", handle, default=(0, 0))
    card = Gpu(
        index=index,
        name=text(pynvml.nvmlDeviceGetName(handle)),
        load_percent=int(load.gpu) if load else 0,
        used_gib=used_gib,
        total_gib=total_gib,
        temperature_c=int(ask("nvmlDeviceGetTemperature", handle, pynvml.NVML_TEMPERATURE_GPU)),
        power_w=ask("nvmlDeviceGetPowerUsage", handle) / 1000,
        driver=text(pynvml.nvmlSystemGetDriverVersion()),
        uuid=text(pynvml.nvmlDeviceGetUUID(handle)),
        capability=(int(major), int(minor)),
    )
    if not any(ask("nvmlDeviceGetMigMode", handle, default=(0, 0))[:1]):
        return card
    return replace(card, in_mig_mode=True, instances=tuple(instances_of(card, handle)))


def instances_of(card: Gpu, handle: object) -> Iterator[Gpu]:
    """Yield the MIG instances of a GPU. Their load is unknown."""
    import pynvml

    for number in range(int(ask("nvmlDeviceGetMaxMigDeviceCount", handle))):
        part = ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, number, default=None)
        if part is None:
            continue
        used_gib, total_gib = memory_gib(part)
        ids = [ask(f"nvmlDeviceGet{kind}InstanceId", part) for kind in ("Gpu", "Compute")]
        sizes = ask("nvmlDeviceGetAttributes", part, default=None)
        yield replace(
            card,
            name=text(ask("nvmlDeviceGetName", part, default=f"{card.name} MIG")),
            load_percent=0,
            used_gib=used_gib,
            total_gib=total_gib,
            uuid=text(pynvml.nvmlDeviceGetUUID(part)),
            share=min(1.0, sizes.computeInstanceSliceCount / MIG_SLICES) if sizes else 1 / MIG_SLICES,
            older_name=f"MIG-{card.uuid}/{ids[0]}/{ids[1]}",
        )


def memory_gib(handle: object) -> tuple[float, float]:
    """Return used and total memory; for a GPU that shares the machine's memory, the machine's."""
    memory = ask("nvmlDeviceGetMemoryInfo", handle, default=None)
    if memory is None:
        import psutil  # 10 ms that a look at a run does not need

        machine = psutil.virtual_memory()
        return (machine.total - machine.available) / 2**30, machine.total / 2**30
    return int(memory.used) / 2**30, int(memory.total) / 2**30


def ask(function: str, handle: object, *arguments: object, default: object = 0) -> Any:
    """Call a function of NVML. Some boards lack the sensor for it, and some drivers the function: then the default."""
    import pynvml

    try:
        return getattr(pynvml, function)(handle, *arguments)
    except pynvml.NVMLError:
        return default


def text(value: str | bytes) -> str:
    """Return a name as text: older bindings return bytes."""
    return value.decode() if isinstance(value, bytes) else value


# What NCCL needs


def are_without_peers(names: Iterable[str]) -> bool:
    """Tell whether NCCL must not try peer-to-peer copies between cards of these names.

    Drivers report peer access between GeForce RTX 40 cards, but copies hang or corrupt data (NCCL issue 969, and
    NVIDIA's statement that these cards do not support it). RTX 4000 to 6000 are cards for workstations, and have it.
    NCCL finds out by itself that GeForce RTX 50 cards have none (NCCL issue 1637).
    """
    return any(re.search(r"\bGeForce RTX 40[5-9]0\b", name) for name in names)


def nccl_variables(gpus: list[Gpu]) -> dict[str, str]:
    """Return the variables that NCCL needs on these cards."""
    return {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"} if are_without_peers(gpu.name for gpu in gpus) else {}
