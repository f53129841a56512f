"""Which build of torch a machine gets: a table of drivers and cards, and what NVML and nvidia-smi answer."""

import ctypes
import json
from pathlib import Path

import pytest

from sft.host.doctor import kernel
from sft.host.install import backend, driver, torch_build
from sft.host.install.driver import Card, Machine

RECORDED = Path(__file__).with_name("nvml")
CARDS = {
    "GTX 1080 Ti": (6, 1), "V100": (7, 0), "T4": (7, 5), "RTX 3090": (8, 6), "RTX 4090": (8, 9), "H100": (9, 0),
    "B200": (10, 0), "RTX 5090": (12, 0), "unknown": (0, 0),
}  # fmt: skip
OLD = ("GTX 1080 Ti", "V100")
USUAL = ("T4", "RTX 3090", "RTX 4090", "H100", "unknown")
NEW = ("B200", "RTX 5090")


def a_machine(version, *names):
    return Machine(version, tuple(Card(name, CARDS[name]) for name in names))


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize(
    ("version", "runs"),
    [
        ("470.256.02", ()), ("520.61.05", ()), ("525.60.12", ()), ("525.60.13", ("cu126",)), ("535.288.01", ("cu126",)),
        ("550.163.01", ("cu126",)), ("570.211.01", ("cu126",)), ("575.64.05", ("cu126",)), ("580.65.05", ("cu126",)),
        ("580.65.06", ("cu130", "cu126")), ("580.126.09", ("cu130", "cu126")), ("595.45.04", ("cu130", "cu126")),
        ("1000.1", ("cu130", "cu126")),
    ],
)  # fmt: skip
def test_the_build_follows_from_driver_and_card(version, runs, name):
    has_kernels = {"cu126": OLD + USUAL, "cu130": USUAL + NEW}
    wanted = [build for build in runs if name in has_kernels[build]]
    found = backend.chosen(a_machine(version, name), "")
    if wanted:
        assert found == backend.Choice(wanted[0])
    else:
        least = "580.65.06" if name in NEW and runs else "525.60.13"
        assert found.problem.startswith(f"driver {version}: is too old for {name}, for which torch needs {least}")
        assert found.problem.endswith("TORCH_BACKEND=cpu") and "\n" not in found.problem


def test_blackwell_below_580_is_told_the_driver_and_not_given_a_build_without_kernels():
    found = backend.chosen(a_machine("570.211.01", "RTX 5090"), "")
    assert found.name == "cpu" and found.problem == (
        "driver 570.211.01: is too old for RTX 5090, for which torch needs 580.65.06 or newer; install it: sudo apt "
        "install nvidia-driver-580 (Ubuntu), restart; or go on without the GPU: TORCH_BACKEND=cpu"
    )


def test_of_different_cards_the_build_for_the_most_and_the_others_are_named():
    found = backend.chosen(a_machine("580.126.09", "RTX 4090", "RTX 4090", "GTX 1080 Ti"), "")
    assert found == backend.Choice("cu126")  # all three
    found = backend.chosen(a_machine("580.126.09", "RTX 5090", "RTX 5090", "V100"), "")
    assert found == backend.Choice("cu130", note="torch's CUDA 13.0 has no kernels for V100")


def test_without_a_card_the_build_for_the_cpu_and_a_driver_half_renewed_is_said():
    assert backend.chosen(Machine(), "") == backend.chosen(Machine("580.126.09"), "auto") == backend.Choice("cpu")
    assert backend.chosen(Machine(problem="restart the machine"), "").note == "restart the machine"


def test_torch_backend_overrides_and_a_misspelt_one_is_refused():
    for name in ("cpu", "cu126", "cu130", "cu132"):
        assert backend.chosen(a_machine("470.256.02", "RTX 4090"), name) == backend.Choice(name)
    found = backend.chosen(Machine(), "cuda12.6")
    assert found.problem == "TORCH_BACKEND=cuda12.6: is not a build of torch; use auto, cpu, cu130, cu126"


@pytest.mark.parametrize(
    ("version", "card", "cuda", "objection"),
    [
        ("535.288.01", "RTX 4090", "13.0", "its CUDA 13.0 needs driver 580.65.06 or newer, and this one is 535.288.01"),
        ("535.288.01", "RTX 4090", "13.2", "its CUDA 13.2 needs driver 580.65.06 or newer, and this one is 535.288.01"),
        ("535.288.01", "RTX 4090", "12.6", ""), ("535.288.01", "RTX 4090", "12.8", ""),
        ("580.126.09", "RTX 5090", "12.6", "torch's CUDA 12.6 has no kernels for RTX 5090"),
        ("580.126.09", "RTX 5090", "12.8", ""), ("580.126.09", "RTX 5090", "13.0", ""),
        ("580.126.09", "RTX 4090", None, "it is built for the CPU, and there is a GPU"),
    ],
)  # fmt: skip
def test_what_speaks_against_a_torch_that_is_there(version, card, cuda, objection):
    assert backend.objection(a_machine(version, card), cuda) == objection
    assert backend.objection(Machine(), cuda) == ""


def test_the_check_says_how_torch_computed_and_what_would_suit():
    found = kernel.Found("2.13.0+cu130", "13.0", ["RTX 4090"], "3.5.1")
    right = kernel.judged(found, a_machine("580.126.09", "RTX 4090"))
    assert right.level == "ok" and right.found == (
        "2.13.0+cu130, built for CUDA 13.0, computes right on RTX 4090 and with Triton 3.5.1 (driver 580.126.09)"
    )
    wrong = kernel.judged(found, a_machine("550.163.01", "RTX 4090"))
    assert wrong.level == "failure" and wrong.remedy == "`make setup TORCH_BACKEND=cu126` replaces it"
    broken = kernel.Found(
        "2.13.0+cu130", "13.0", ["RTX 4090"], "3.5.1", "RuntimeError: Failed to find C compiler. Set CC"
    )
    assert kernel.judged(broken, a_machine("580.126.09", "RTX 4090")).remedy == "sudo apt install gcc"
    assert kernel.judged(kernel.Found(error="No module named 'torch'"), Machine()).level == "failure"
    assert kernel.judged(kernel.Found("2.13.0+cu130", "13.0"), Machine()).level == "ok"


# What the driver answers


class Nvml:
    """NVML as a library of C functions that gives recorded answers."""

    def __init__(self, answers):
        self.answers, self.is_open = answers, False

    def nvmlInit_v2(self):
        self.is_open = not self.answers["init"]
        return self.answers["init"]

    def nvmlShutdown(self):
        self.is_open = False

    def nvmlSystemGetDriverVersion(self, text, length):
        assert self.is_open and length == driver.NAME_LENGTH
        text.value = self.answers["driver"].encode()

    def nvmlDeviceGetCount_v2(self, number):
        number._obj.value = len(self.answers["cards"])

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        handle._obj.value = index + 1
        return self.answers["cards"][index].get("error", 0)

    def nvmlDeviceGetName(self, handle, text, length):
        text.value = self.answers["cards"][handle.value - 1]["name"].encode()

    def nvmlDeviceGetCudaComputeCapability(self, handle, major, minor):
        major._obj.value, minor._obj.value = self.answers["cards"][handle.value - 1]["capability"]


def test_what_nvml_says_is_read_and_a_card_that_cannot_be_opened_left_out():
    cards = [{"name": "RTX 4090", "capability": [8, 9]}, {"name": "lost", "capability": [0, 0], "error": 15}]
    nvml = Nvml({"init": 0, "driver": "535.288.01", "cards": cards})
    assert driver.told_by_nvml(nvml) == a_machine("535.288.01", "RTX 4090") and not nvml.is_open
    assert "restart" in driver.told_by_nvml(Nvml({"init": driver.MISMATCH})).problem
    assert driver.told_by_nvml(Nvml({"init": 9})) == Machine()


@pytest.mark.parametrize("path", sorted(RECORDED.glob("*.json")), ids=lambda path: path.stem)
def test_what_nvml_has_said_on_real_machines(path):
    recorded = json.loads(path.read_text())
    found = driver.told_by_nvml(Nvml(recorded["nvml"]))
    assert found == driver.parsed(recorded["nvidia-smi"])  # the program and the library agree
    assert backend.chosen(found, "").name == recorded["backend"]


def test_what_nvidia_smi_says_is_read():
    output = "535.288.01, NVIDIA GeForce RTX 4090, 8.9\n535.288.01, NVIDIA GeForce RTX 4090, 8.9\n"
    assert driver.parsed(output) == Machine("535.288.01", (Card("NVIDIA GeForce RTX 4090", (8, 9)),) * 2)
    assert driver.parsed("470.1, Old, [N/A]\n") == Machine("470.1", (Card("Old", (0, 0)),))
    assert driver.parsed("") == Machine()


def test_the_answers_fit_into_what_is_given_to_c():
    assert ctypes.sizeof(ctypes.create_string_buffer(driver.NAME_LENGTH)) == 96


@pytest.mark.parametrize(
    ("wanted", "found", "line"),
    [
        ("cu130", ("2.13.0+cu130", "13.0"), None),
        ("cpu", ("2.13.0+cu130", "13.0"), None),  # every build computes on the CPU
        ("cu130", ("2.13.0+cpu", None), r"torch==2.13.0+cu130: not installed (pip found torch 2.13.0+cpu); check"),
        ("cu130", None, "torch==2.13.0+cu130: not installed (the torch that pip found cannot be imported); check"),
        ("cu126", None, "torch==2.13.0+cu126: not installed (no network); check"),  # no index has it as plain torch
    ],
)
def test_what_pip_finds_under_the_plain_version_is_looked_at(monkeypatch, capsys, wanted, found, line):
    monkeypatch.setattr(torch_build, "pip_install", lambda *words, **_: words[-1] == "torch==2.13.0")
    monkeypatch.setattr(torch_build, "with_uv", lambda *_: "no network")
    monkeypatch.setattr(torch_build, "installed", lambda _: found)
    monkeypatch.delenv("OFFLINE", raising=False)
    if line is None:
        torch_build.get(Path("python"), "2.13.0", wanted)
        return
    with pytest.raises(SystemExit) as ended:
        torch_build.get(Path("python"), "2.13.0", wanted)
    assert ended.value.code == 2 and capsys.readouterr().err.startswith(line)
