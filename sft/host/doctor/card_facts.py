"""What the driver and the kernel say of this machine's cards: `python -m sft.host.doctor.card_facts` prints it as JSON.

None: this card or driver does not say. tests/unit/nvml/facts/ has what some machines said.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import field
from pathlib import Path

import psutil

from sft import resources
from sft.host import gpus
from sft.run import typed_json
from sft.run.light import dataclass
from sft.run.typed_json import Part, Record

SYSFS = Path("/sys/bus/pci/devices")
PEER_READ, PEER_NVLINK = 0, 2  # NVML_P2P_CAPS_INDEX_READ (in pynvml a tuple by mistake), NVML_P2P_CAPS_INDEX_NVLINK


@dataclass(frozen=True, kw_only=True)
class ProcessFacts(Part):
    """A process that uses a card."""

    pid: int
    name: str = ""  # "": not visible from here, as from inside a container
    user: str = ""
    used_gib: float | None = None


@dataclass(frozen=True, kw_only=True)
class CardFacts(Part):
    """One card at one moment."""

    index: int  # in PCI order, as in `nvidia-smi`
    name: str
    bus: str  # as in "00000000:41:00.0"
    load_percent: int | None = None
    used_gib: float = 0.0
    total_gib: float = 0.0
    pcie_generation: int | None = None  # now: an idle card goes down to 1
    pcie_generation_max: int | None = None  # of card and slot
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    power_limit_w: float | None = None
    power_default_w: float | None = None
    ecc: bool | None = None
    ecc_errors: int | None = None  # that could not be corrected, since the driver was loaded
    remap_pending: bool | None = None  # a row of memory is replaced at the next reset
    remap_failed: bool | None = None
    persistence: bool | None = None
    mig: bool = False
    clock_reasons: int | None = None  # nvmlClocksEventReasons, the bits of why clocks are low now
    temperature_c: int | None = None
    slowdown_c: int | None = None  # at which the card slows itself down
    numa_node: int | None = None
    iommu: str = ""  # the kind of its IOMMU group: DMA, DMA-FQ or identity; "": not behind an IOMMU
    processes: list[ProcessFacts] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class PairFacts(Part):
    """Whether one card can read another one's memory."""

    first: int
    second: int
    peer: bool | None
    nvlink: bool | None


@dataclass(frozen=True, kw_only=True)
class MachineFacts(Record):
    """All cards of a machine."""

    source: str = ""  # of a recorded file: which machine, or that it was made by hand
    driver: str = ""
    cards: list[CardFacts] = field(default_factory=list)
    pairs: list[PairFacts] = field(default_factory=list)


def facts(sysfs: Path = SYSFS) -> MachineFacts:
    """Return what driver and kernel say now; no cards without a driver."""
    with gpus.handles() as handles:
        if not handles:
            return MachineFacts()
        import pynvml

        cards = [card_of(handle, index, sysfs) for index, handle in enumerate(handles)]
        numbered = list(enumerate(handles))
        pairs = [pair_of(one, other) for one, other in itertools.combinations(numbered, 2)]
        return MachineFacts(driver=gpus.text(pynvml.nvmlSystemGetDriverVersion()), cards=cards, pairs=pairs)


def card_of(handle: object, index: int, sysfs: Path) -> CardFacts:
    """Return the facts of one card."""
    import pynvml

    bus = gpus.text(pynvml.nvmlDeviceGetPciInfo(handle).busId)
    load = gpus.ask("nvmlDeviceGetUtilizationRates", handle, default=None)
    used_gib, total_gib = gpus.memory_gib(handle)
    remapped = gpus.ask("nvmlDeviceGetRemappedRows", handle, default=None)  # corrected, uncorrected, pending, failed
    ecc = gpus.ask("nvmlDeviceGetEccMode", handle, default=None)  # now, after the next reset
    device = sysfs / bus.lower()[-12:]  # sysfs writes four digits of the domain, NVML eight
    numa = resources.text(device / "numa_node")
    return CardFacts(
        index=index,
        name=gpus.text(pynvml.nvmlDeviceGetName(handle)),
        bus=bus,
        load_percent=int(load.gpu) if load else None,
        used_gib=round(used_gib, 3),
        total_gib=round(total_gib, 3),
        pcie_generation=whole("nvmlDeviceGetCurrPcieLinkGeneration", handle),
        pcie_generation_max=whole("nvmlDeviceGetMaxPcieLinkGeneration", handle),
        pcie_width=whole("nvmlDeviceGetCurrPcieLinkWidth", handle),
        pcie_width_max=whole("nvmlDeviceGetMaxPcieLinkWidth", handle),
        power_limit_w=watts("nvmlDeviceGetEnforcedPowerLimit", handle),
        power_default_w=watts("nvmlDeviceGetPowerManagementDefaultLimit", handle),
        ecc=bool(ecc[0]) if ecc else None,
        ecc_errors=whole(
            "nvmlDeviceGetTotalEccErrors",
            handle,
            pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            pynvml.NVML_VOLATILE_ECC,
        ),
        remap_pending=bool(remapped[2]) if remapped else None,
        remap_failed=bool(remapped[3]) if remapped else None,
        persistence=flag("nvmlDeviceGetPersistenceMode", handle),
        mig=any(gpus.ask("nvmlDeviceGetMigMode", handle, default=(0, 0))[:1]),
        clock_reasons=whole("nvmlDeviceGetCurrentClocksThrottleReasons", handle),
        temperature_c=whole("nvmlDeviceGetTemperature", handle, pynvml.NVML_TEMPERATURE_GPU),
        slowdown_c=whole("nvmlDeviceGetTemperatureThreshold", handle, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
        numa_node=int(numa) if numa.isdecimal() else None,  # -1: the machine does not say
        iommu=resources.text(device / "iommu_group" / "type"),
        processes=processes_of(handle),
    )


def whole(function: str, handle: object, *arguments: object) -> int | None:
    """Return a number that NVML knows, or None."""
    found = gpus.ask(function, handle, *arguments, default=None)
    return None if found is None else int(found)


def watts(function: str, handle: object) -> float | None:
    """Return a power that NVML tells in milliwatts, or None."""
    found = whole(function, handle)
    return None if found is None else found / 1000


def flag(function: str, handle: object) -> bool | None:
    """Return whether NVML says that something is switched on, or None."""
    found = whole(function, handle)
    return None if found is None else bool(found)


def processes_of(handle: object) -> list[ProcessFacts]:
    """Return the processes that use a card, those that draw on it too."""
    found: dict[int, float | None] = {}
    for function in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
        for process in gpus.ask(function, handle, default=[]):
            used = process.usedGpuMemory  # None where Windows manages the memory
            found[int(process.pid)] = None if used is None else round(int(used) / 2**30, 3)
    return [process_of(pid, used) for pid, used in sorted(found.items())]


def process_of(pid: int, used_gib: float | None) -> ProcessFacts:
    """Return a process with its name and its user, if it can be seen from here."""
    try:
        process = psutil.Process(pid)
        return ProcessFacts(pid=pid, name=process.name(), user=process.username(), used_gib=used_gib)
    except (psutil.Error, KeyError):  # KeyError: a user without a name
        return ProcessFacts(pid=pid, used_gib=used_gib)


def pair_of(one: tuple[int, object], other: tuple[int, object]) -> PairFacts:
    """Return whether two cards reach each other's memory."""
    return PairFacts(
        first=one[0],
        second=other[0],
        peer=peer_status(one[1], other[1], PEER_READ),
        nvlink=peer_status(one[1], other[1], PEER_NVLINK),
    )


def peer_status(one: object, other: object, kind: int) -> bool | None:
    """Return whether a card can reach another one in one way, or None."""
    import pynvml

    found = gpus.ask("nvmlDeviceGetP2PStatus", one, other, kind, default=None)
    return None if found is None else int(found) == int(pynvml.NVML_P2P_STATUS_OK)


if __name__ == "__main__":
    print(json.dumps(typed_json.content_of(facts()), indent=1))
