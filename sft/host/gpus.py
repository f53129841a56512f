"""The NVIDIA GPUs of this machine, as the driver tells them (NVML). Without a driver there are none."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU at one moment."""

    index: int
    name: str
    load_percent: int
    used_gib: float
    total_gib: float
    temperature_c: int
    power_w: float
    driver: str
    uuid: str = ""


def visible() -> list[Gpu]:
    """Return the GPUs that a process started here may use, in order: all, or those of CUDA_VISIBLE_DEVICES."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        everything = [look(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return everything
    wanted = [part.strip() for part in chosen.split(",")]
    return [everything[int(part)] for part in wanted if part.isdigit() and int(part) < len(everything)]


def look(index: int) -> Gpu:
    """Return a GPU's present state; what it cannot tell is 0."""
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)

    def ask(function: str, *arguments: object) -> float:
        try:
            return float(getattr(pynvml, function)(handle, *arguments))
        except pynvml.NVMLError:  # some boards have no sensor for it
            return 0.0

    try:
        load = int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except pynvml.NVMLError:
        load = 0
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        index=index,
        name=text(pynvml.nvmlDeviceGetName(handle)),
        load_percent=load,
        used_gib=int(memory.used) / 2**30,
        total_gib=int(memory.total) / 2**30,
        temperature_c=int(ask("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU)),
        power_w=ask("nvmlDeviceGetPowerUsage") / 1000,
        driver=text(pynvml.nvmlSystemGetDriverVersion()),
        uuid=text(pynvml.nvmlDeviceGetUUID(handle)),
    )


def text(value: str | bytes) -> str:
    """Return a name as text; older bindings return bytes."""
    return value.decode() if isinstance(value, bytes) else value


def have_no_peer_access(gpus: list[Gpu]) -> bool:
    """Tell whether NCCL must not try peer-to-peer copies.

    The driver reports peer access between RTX 40 cards and copies then hang or corrupt data (NCCL issue 969, and
    NVIDIA's statement that these cards do not support it).
    """
    return any("RTX 40" in gpu.name for gpu in gpus)


def nccl_variables(gpus: list[Gpu]) -> dict[str, str]:
    """Return the environment that NCCL needs on these cards."""
    return {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"} if have_no_peer_access(gpus) else {}
