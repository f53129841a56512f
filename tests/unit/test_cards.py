"""What `inv test-env` says of the cards, from what the drivers of some machines said (tests/unit/nvml/facts/)."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from sft.host import gpus
from sft.host.doctor import card_facts, cards
from sft.host.doctor.card_facts import MachineFacts
from sft.run import typed_json

FACTS = Path(__file__).parent / "nvml" / "facts"


def read(name):
    return typed_json.read(FACTS / f"{name}.json", MachineFacts)


def changed(facts, index, **values):
    """Return the facts with one card's values changed."""
    return with_cards(facts, [card_with(card, values) if card.index == index else card for card in facts.cards])


def card_with(card, values):
    return card_facts.CardFacts.from_json(card.to_json() | values)


def with_cards(facts, found):
    return MachineFacts(driver=facts.driver, cards=found, pairs=facts.pairs)


def said(facts, indices=range(8)):
    return {check.name: check for check in cards.checks(facts, indices)}


@pytest.mark.parametrize("path", sorted(FACTS.glob("*.json")), ids=lambda path: path.stem)
def test_no_recorded_machine_fails(path):
    facts = typed_json.read(path, MachineFacts)
    found = list(cards.checks(facts, range(16)))
    assert found and all(check.level != "failure" for check in found)
    for check in found:
        assert bool(check.remedy) == (check.level != "ok"), check
        json.dumps(check.record().to_json())


def test_a_workstation_of_four_4090():
    found = {name: check.found for name, check in said(read("four-4090")).items()}
    assert found == {
        "PCIe": "generation 4, 16 lanes, generation 1 while idle",
        "power": "limit 450 W",
        "clocks": "nothing slows the cards down",
        "temperature": "36 to 41 °C",
        "ECC": "off",
        "persistence": "cards 0, 1, 2, 3: off, so programs start seconds later",
        "MIG": "off",
        "other programs": "card 0: Xorg (2211, anna) 0.3 GiB, gnome-shell (2502, anna) 0.2 GiB",
        "NUMA": "node 0: cards 0, 1; node 1: cards 2, 3; copies between nodes are slower",
        "peer-to-peer": "NCCL_P2P_DISABLE=1 is set for these cards: copies go through the machine's memory",
        "IOMMU": "on; the cards do not copy to each other over PCIe",
    }
    assert "NUMA" in said(read("four-4090"), [1]) and "peer-to-peer" not in said(read("four-4090"), [1])
    assert said(read("four-4090"), []) == {}


def test_two_cards_with_nvlink():
    found = said(read("two-h100"))
    assert found["peer-to-peer"].found == "between all cards, over NVLink" and found["ECC"].found == "on, no errors"
    assert {check.level for check in found.values()} == {"ok"}


@pytest.mark.parametrize(
    ("name", "values", "level", "words", "remedy"),
    [
        ("PCIe", {"pcie_width": 8}, "warning", "card 1: 8 of 16 lanes", "reseat"),
        ("PCIe", {"pcie_width": 4, "pcie_width_max": 4}, "warning", "4 lanes, the card has 16", "slot with 8 or 16"),
        ("PCIe", {"pcie_width": 8, "pcie_width_max": 8}, "ok", "card 1: generation 4, 8 lanes", ""),
        ("PCIe", {"load_percent": 90}, "warning", "generation 1 of 4 under load", "BIOS"),
        ("power", {"power_limit_w": 200.0}, "warning", "card 1: limit 200 W (usually 450 W)", "-i 1 -pl 450"),
        ("power", {"power_limit_w": 350.0}, "ok", "card 1: limit 350 W (usually 450 W)", ""),
        ("clocks", {"clock_reasons": 8 | 64}, "warning", "too hot", "fans"),
        ("clocks", {"clock_reasons": 8 | 128}, "warning", "power supply", "stronger"),
        ("clocks", {"clock_reasons": 4}, "ok", "nothing slows", ""),
        ("temperature", {"temperature_c": 90}, "warning", "card 1: 90 °C, slows down at 93 °C", "fans"),
        ("ECC", {"ecc": True, "ecc_errors": 2}, "failure", "2 errors that could not be corrected", "restart"),
        ("ECC", {"remap_pending": True}, "warning", "card 1: a bad row", "restart"),
        ("ECC", {"remap_failed": True}, "failure", "no spare rows", "replaced"),
        ("other programs", {"used_gib": 20.0}, "warning", "card 1: 20.0 of 24 GiB are taken", "make stop"),
        ("MIG", {"mig": True}, "ok", "card 1: divided", ""),
    ],
)
def test_what_is_wrong_with_a_card_is_said_with_its_remedy(name, values, level, words, remedy):
    check = said(changed(read("four-4090"), 1, **values))[name]
    assert (check.level, words in check.found, remedy in check.remedy) == (level, True, True), check


def test_an_iommu_matters_where_cards_copy_to_each_other_over_pcie():
    facts = read("four-4090")

    def of_a6000(**values):
        return said(with_cards(facts, [card_with(card, {"name": "NVIDIA RTX A6000"} | values) for card in facts.cards]))

    assert of_a6000()["peer-to-peer"].found == "between all cards, over PCIe"
    translated = of_a6000()["IOMMU"]
    assert translated.level == "warning" and "iommu=pt" in translated.remedy
    passed = of_a6000(iommu="identity")["IOMMU"]
    assert (passed.level, passed.found) == ("ok", "passes the cards' copies through")
    assert of_a6000(iommu="")["IOMMU"].found == "off, or not visible from here"


class Driver:
    """NVML that knows two cards, and little else."""

    NVMLError = type("NVMLError", (Exception,), {})
    NVML_TEMPERATURE_GPU = NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = NVML_P2P_STATUS_OK = 0

    def __getattr__(self, name):
        if not name.startswith("nvml"):
            raise AttributeError(name)
        answers = {
            "nvmlInit": None, "nvmlShutdown": None, "nvmlDeviceGetCount": 2, "nvmlSystemGetDriverVersion": b"580.1",
            "nvmlDeviceGetName": b"NVIDIA A30", "nvmlDeviceGetP2PStatus": 0,
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=2**30, total=24 * 2**30),
            "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=2**22 + 1, usedGpuMemory=None)],
        }  # fmt: skip

        def call(*_):
            if name not in answers:
                raise self.NVMLError(name)
            return answers[name]

        return call

    def nvmlDeviceGetHandleByIndex(self, number):
        return number

    def nvmlDeviceGetPciInfo(self, handle):
        return SimpleNamespace(busId=f"00000000:{4 - handle}1:00.0")


def test_what_driver_and_kernel_say_is_read_and_what_they_do_not_say_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(gpus, "has_driver", lambda: True)
    monkeypatch.setitem(__import__("sys").modules, "pynvml", Driver())
    device = tmp_path / "0000:31:00.0"
    (device / "iommu_group").mkdir(parents=True)
    (device / "numa_node").write_text("1\n")
    (device / "iommu_group" / "type").write_text("DMA-FQ\n")
    facts = card_facts.facts(tmp_path)
    first, second = facts.cards
    assert (first.bus, first.numa_node, first.iommu) == ("00000000:31:00.0", 1, "DMA-FQ")
    assert (second.numa_node, second.iommu, second.pcie_width, second.ecc) == (None, "", None, None)
    assert first.processes[0].pid == 2**22 + 1 and first.processes[0].name == "" and first.used_gib == 1.0
    assert [(pair.first, pair.second, pair.peer, pair.nvlink) for pair in facts.pairs] == [(0, 1, True, True)]
    assert MachineFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts
    assert all(check.level == "ok" for check in cards.checks(facts, [0, 1]))
