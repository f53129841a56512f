"""NVIDIA's driver and cards, asked without any package: nothing is installed yet when this is needed."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import dataclass

LIBRARIES = ("libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1")  # the second: Windows' subsystem for Linux
NAME_LENGTH = 96  # NVML_DEVICE_NAME_V2_BUFFER_SIZE
MISMATCH = 18  # NVML_ERROR_LIB_RM_VERSION_MISMATCH: the driver was renewed, and the kernel still runs the older one
QUERY = ("nvidia-smi", "--query-gpu=driver_version,name,compute_cap", "--format=csv,noheader")


@dataclass(frozen=True)
class Card:
    """A GPU: its name, and its compute capability."""

    name: str
    capability: tuple[int, int]


@dataclass(frozen=True)
class Machine:
    """What the driver says: its version ("" if there is none), its cards, or what is wrong with it."""

    driver: str = ""
    cards: tuple[Card, ...] = ()
    problem: str = ""


def machine() -> Machine:
    """Return the driver and the cards of this machine."""
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        return told_by_nvml(library)
    return told_by_program()


def told_by_nvml(nvml: ctypes.CDLL) -> Machine:
    """Return what NVML says. A card that it cannot open is left out, as CUDA does."""
    if code := nvml.nvmlInit_v2():
        restart = "the driver was renewed and its kernel module was not; restart the machine"
        return Machine(problem=restart if code == MISMATCH else "")
    try:
        text, number = ctypes.create_string_buffer(NAME_LENGTH), ctypes.c_uint()
        nvml.nvmlSystemGetDriverVersion(text, NAME_LENGTH)
        version = text.value.decode()
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(number))
        cards = [card_of(nvml, index) for index in range(number.value)]
        return Machine(version, tuple(card for card in cards if card))
    finally:
        nvml.nvmlShutdown()


def card_of(nvml: ctypes.CDLL, index: int) -> Card | None:
    """Return one card, None if it cannot be opened."""
    handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(NAME_LENGTH)
    major, minor = ctypes.c_int(), ctypes.c_int()
    if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)):
        return None
    nvml.nvmlDeviceGetName(handle, name, NAME_LENGTH)
    nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
    return Card(name.value.decode(), (major.value, minor.value))


def told_by_program() -> Machine:
    """Return what nvidia-smi says, where its library is in a place of its own; nothing if there is no driver."""
    if not shutil.which(QUERY[0]):
        return Machine()
    done = subprocess.run(QUERY, capture_output=True, text=True, check=False)
    return parsed(done.stdout) if done.returncode == 0 else Machine()


def parsed(output: str) -> Machine:
    """Return the answer of nvidia-smi, a card a line. Drivers before 510 do not know the capability: (0, 0)."""
    driver, cards = "", []
    for line in output.splitlines():
        driver, name, capability = (part.strip() for part in line.split(","))
        numbers = capability.split(".")
        cards.append(Card(name, (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 else (0, 0)))
    return Machine(driver, tuple(cards))
