"""Which GPUs a run gets: what CUDA_VISIBLE_DEVICES says, the same cards for the plan and for the ranks."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from sft import hostfile
from sft.errors import SettingsError
from sft.host import gpus
from sft.host.doctor import hardware, kernel
from sft.host.gpus import Gpu
from sft.host.launch import compose, local
from sft.host.launch import node as launch
from sft.host.launch.decide import choose_device
from sft.host.launch.link import Link
from sft.host.launch.local import Local
from sft.host.launch.offer import Offer
from sft.host.plan import conditions, planner
from sft.run import lifecycle
from sft.settings.load import load
from sft.settings.stages import resolve
from tests.settings import decided

UUIDS = ["GPU-8932f937-d72c-4106", "GPU-8932f9aa-0000-1111", "GPU-aaaa0000-1111-2222", "GPU-bbbb0000-1111-2222"]


def card(index, name="NVIDIA GeForce RTX 4090", gib=24.0, capability=(8, 9), **more):
    return Gpu(index, name, 0, 0.5, gib, 40, 50.0, "580.1", UUIDS[index], capability, **more)


def in_mig_mode(index, *uuids):
    """Return an A100 that is cut into instances of a seventh each."""
    whole = card(index, "NVIDIA A100-SXM4-40GB", 39.4, (8, 0))
    parts = [
        replace(whole, name=f"{whole.name} MIG 1g.5gb", total_gib=4.75, used_gib=0.01, uuid=uuid, share=1 / 7)
        for uuid in uuids
    ]
    parts = [replace(part, older_name=f"MIG-{whole.uuid}/{7 + i}/0") for i, part in enumerate(parts)]
    return replace(whole, in_mig_mode=True, instances=tuple(parts))


FOUR = [card(index) for index in range(4)]


@pytest.fixture
def here(monkeypatch):
    """Let the driver tell of some GPUs, and CUDA_VISIBLE_DEVICES be unset."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def tell(cards):
        monkeypatch.setattr(gpus, "facts", lambda: cards)

    return tell


BUS = {0: "00000000:C1:00.0", 1: "00000000:41:00.0", 2: "00000000:E1:00.0"}
PARTS = {"part-0": ("MIG-a", 7, 4.75), "part-1": ("MIG-b", 8, 9.5)}


class Driver:
    """NVML of a machine whose second card is the first on the bus and cut into two, and whose last one is lost."""

    NVMLError = type("NVMLError", (Exception,), {})
    NVML_TEMPERATURE_GPU = 0

    def __getattr__(self, name):
        """Fail as NVML does for what a board cannot tell."""

        def not_supported(*_):
            raise self.NVMLError(name)

        if not name.startswith("nvml"):
            raise AttributeError(name)
        return not_supported

    def nvmlInit(self):
        pass

    nvmlShutdown = nvmlInit

    def nvmlDeviceGetCount(self):
        return 4

    def nvmlDeviceGetHandleByIndex(self, number):
        if number == 3:
            raise self.NVMLError("GPU is lost")
        return number

    def nvmlDeviceGetPciInfo(self, handle):
        return SimpleNamespace(busId=BUS[handle].encode())

    def nvmlDeviceGetName(self, handle):
        if handle in PARTS:
            raise self.NVMLError("an older driver")
        return {0: b"Tesla T4", 1: "NVIDIA A100-SXM4-40GB", 2: "NVIDIA GB10"}[handle]

    def nvmlDeviceGetMemoryInfo(self, handle):
        if handle in (1, 2):  # of the cut card for a container that has a part of it; of one without memory of its own
            raise self.NVMLError("no permission")
        gib = 15.0 if handle == 0 else PARTS[handle][2]
        return SimpleNamespace(used=2**29, total=int(gib * 2**30))

    def nvmlSystemGetDriverVersion(self):
        return b"580.1"

    def nvmlDeviceGetUUID(self, handle):
        return PARTS[handle][0] if handle in PARTS else f"GPU-{handle}"

    def nvmlDeviceGetCudaComputeCapability(self, handle):
        return {0: (7, 5), 1: (8, 0), 2: (12, 1)}[handle]

    def nvmlDeviceGetMigMode(self, handle):
        if handle != 1:
            raise self.NVMLError("not supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, number):
        if number > 1:
            raise self.NVMLError("not found")
        return f"part-{number}"

    def nvmlDeviceGetGpuInstanceId(self, handle):
        return PARTS[handle][1]

    def nvmlDeviceGetComputeInstanceId(self, handle):
        return 0

    def nvmlDeviceGetAttributes(self, handle):
        return SimpleNamespace(computeInstanceSliceCount=1 + int(handle[-1]))


def test_what_the_driver_tells_is_read_in_the_order_of_the_bus(monkeypatch):
    monkeypatch.setattr(gpus, "has_driver", lambda: True)
    monkeypatch.setitem(sys.modules, "pynvml", Driver())
    cut, old, shared = gpus.facts()
    assert [(gpu.index, gpu.uuid) for gpu in (cut, old, shared)] == [(0, "GPU-1"), (1, "GPU-0"), (2, "GPU-2")]
    assert cut.in_mig_mode and [one.uuid for one in cut.instances] == ["MIG-a", "MIG-b"]
    assert [one.total_gib for one in cut.instances] == [4.75, 9.5]
    assert [one.share for one in cut.instances] == [pytest.approx(1 / 7), pytest.approx(2 / 7)]
    assert cut.instances[1].older_name == "MIG-GPU-1/8/0" and cut.instances[1].name == "NVIDIA A100-SXM4-40GB MIG"
    assert old.name == "Tesla T4" and not old.has_bf16 and (old.used_gib, old.total_gib) == (0.5, 15.0)
    assert shared.total_gib == pytest.approx(psutil.virtual_memory().total / 2**30) and shared.has_bf16


@pytest.mark.parametrize(
    ("visible_devices", "indices"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("2,3", [2, 3]),
        ("3, 1", [3, 1]),
        ("0,2,-1,1", [0, 2]),
        ("1,4,0", [1]),  # an index out of range ends the list
        ("99999999999999999999", []),
        ("1,1", []),
        ("2,nonsense,0", [2]),
        ("GPU-aaaa0000-1111-2222,GPU-8932f937-d72c-4106", [2, 0]),
        ("GPU-a,GPU-b", [2, 3]),
        ("GPU-8932f9,GPU-a", []),  # the beginning of two
        ("GPU-a,GPU-aaaa", []),
        ("GPU-bbbb,GPU-cccc,GPU-aaaa", [3]),
        ("0,GPU-bbbb", [0, 3]),
        ("GPU-8932f937-d72c-4106,0", []),
        ("none", []),
        ("NoDevFiles", []),  # of a scheduler that gives no GPU
        ("all", []),
    ],
)
def test_the_names_of_cuda_visible_devices_are_those_of_cuda(visible_devices, indices):
    assert [gpu.index for gpu in gpus.chosen(FOUR, visible_devices)] == indices


@pytest.mark.parametrize(
    ("visible_devices", "uuids"),
    [
        (None, ["MIG-a"]),  # one instance at most, and no other GPU beside it
        ("1", ["MIG-a"]),
        ("0,1", ["MIG-a"]),
        ("0", [UUIDS[0]]),
        ("0,2", [UUIDS[0]]),  # the third is cut, but into nothing
        ("MIG-b", ["MIG-b"]),
        ("MIG-b,MIG-a", ["MIG-b"]),
        (f"MIG-{UUIDS[1]}/8/0", ["MIG-b"]),
        (UUIDS[1], ["MIG-a"]),
        ("MIG-c", []),
    ],
)
def test_of_cards_that_are_cut_an_instance_is_used(visible_devices, uuids):
    everything = [card(0), in_mig_mode(1, "MIG-a", "MIG-b"), in_mig_mode(2)]
    assert [gpu.uuid for gpu in gpus.chosen(everything, visible_devices)] == uuids


def test_the_plan_counts_the_instance_and_not_the_whole_card(here):
    here([in_mig_mode(0, "MIG-a", "MIG-b")])
    settings = load(None, nodes=1, gpus_per_node=1, model_name="tiny", dataset="demo")
    found = planner.plan_with(settings, conditions.HERE)
    assert found.conditions.free_gib == pytest.approx(4.74)
    assert found.conditions.card.name == "A100-SXM4-40GB MIG 1g.5gb" and found.conditions.card.memory_gib == 4.75
    whole = planner.plan_with(settings, conditions.Options("A100 40GB", 1))
    assert found.conditions.card.matrix_tflops == pytest.approx(whole.conditions.card.matrix_tflops / 7)
    assert found.conditions.card.bandwidth_gb_s == pytest.approx(whole.conditions.card.bandwidth_gb_s / 8)
    with pytest.raises(
        SettingsError,
        match="GPUS_PER_NODE=2: with NODES=1 that is 2 GPUs, and 1 GPU is here; set NODES=1 GPUS_PER_NODE=1",
    ):
        choose_device(load(None, nodes=1), Offer(gpus.visible(), 2, where="here"), 2)


def test_of_mixed_cards_the_smallest_and_slowest_are_planned_for(here):
    mixed = [card(0), card(1, "NVIDIA GeForce RTX 3090"), card(2, "NVIDIA GeForce RTX 3080", 10.0, (8, 6))]
    here(mixed)
    settings = load(None, nodes=1, gpus_per_node=3, model_name="tiny", dataset="demo")
    found = planner.plan_with(settings, conditions.HERE)
    assert found.conditions.free_gib == 9.5 and found.conditions.card.name == "GeForce RTX 3080"
    assert "the slowest of GeForce RTX 4090, GeForce RTX 3090, GeForce RTX 3080" in found.conditions.notes[0]
    two = planner.plan_with(settings.model_copy(update={"gpus_per_node": 2}), conditions.HERE)
    assert two.conditions.free_gib == 23.5 and two.conditions.card.name == "GeForce RTX 3090"


def test_what_cuda_visible_devices_hides_is_said(here, monkeypatch):
    here(FOUR)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-nosuch")
    with pytest.raises(SettingsError) as caught:
        choose_device(load(None, device="cuda"), Offer(gpus.visible(), 2, where="here"), 4)
    assert str(caught.value).startswith(
        "DEVICE=cuda: no NVIDIA GPU is visible here (CUDA_VISIBLE_DEVICES=GPU-nosuch; `nvidia-smi -L` lists 4); run "
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,7")
    with pytest.raises(SettingsError, match=r"that is 4 GPUs, and 2 GPUs are here \(CUDA_VISIBLE_DEVICES=0,1,7; "):
        choose_device(load(None), Offer(gpus.visible(), 2, where="here"), 4)


@pytest.mark.parametrize(
    ("name", "set_for_it"),
    [
        ("NVIDIA GeForce RTX 4090", True), ("GeForce RTX 4090", True), ("NVIDIA GeForce RTX 4090 D", True),
        ("NVIDIA GeForce RTX 4080 SUPER", True), ("NVIDIA GeForce RTX 4070 Ti SUPER", True),
        ("NVIDIA GeForce RTX 4060 Ti", True), ("NVIDIA GeForce RTX 4050 Laptop GPU", True),
        ("NVIDIA RTX 4000 Ada Generation", False), ("NVIDIA RTX 4000 SFF Ada Generation", False),
        ("Quadro RTX 4000", False), ("NVIDIA RTX 4500 Ada Generation", False),
        ("NVIDIA GeForce RTX 3090", False), ("NVIDIA GeForce RTX 5090", False), ("NVIDIA H100 80GB HBM3", False),
    ],
)  # fmt: skip
def test_peer_to_peer_is_switched_off_between_geforce_rtx_40_cards_alone(name, set_for_it):
    assert ("NCCL_P2P_DISABLE" in gpus.nccl_variables([card(0, name)])) is set_for_it


@pytest.mark.parametrize(
    ("name", "capability", "cuda", "level"),
    [
        ("Tesla V100-SXM2-16GB", (7, 0), "13.0", "failure"), ("Tesla V100-SXM2-16GB", (7, 0), "12.6", "ok"),
        ("Tesla T4", (7, 5), "13.0", "ok"), ("NVIDIA GeForce RTX 4090", (0, 0), "13.0", "ok"),
    ],
)  # fmt: skip
def test_a_card_that_torch_has_no_kernels_for_is_named(here, name, capability, cuda, level):
    here([card(0), card(1, name, capability=capability)])
    machine = replace(kernel.machine(), driver="580.126.09")
    found = kernel.judged(kernel.Found("2.13.0", cuda, ["both"]), machine)
    assert found.level == level
    if level == "failure":
        assert found.found == f"torch's CUDA {cuda} has no kernels for {name}" and "TORCH_BACKEND=cu126" in found.remedy


def test_the_check_of_gpus_says_what_cuda_visible_devices_hides(here, monkeypatch):
    here(FOUR)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-nosuch")
    found = hardware.gpu(load(None))
    assert found.level == "failure"
    assert found.found == "none visible (CUDA_VISIBLE_DEVICES=MIG-nosuch; `nvidia-smi -L` lists 4)"


# From what is asked to what a rank sees


@pytest.fixture
def node(here, tmp_path):
    """A node of two ranks on a machine with four GPUs."""
    here(FOUR)
    settings = decided("cuda", nodes=1, runs_path=tmp_path / "runs", run_name="a")
    run = lifecycle.create(settings, hostfile.hostfile(1, 2))
    return launch.Node(run, 0, Link(), None)


def test_the_monitor_is_told_the_cards_of_a_node(node, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-b,1")
    node.introduce()
    assert node.run.nodes()[0].gpus == [UUIDS[3], UUIDS[1]]


def test_nodes_of_one_machine_get_cards_of_their_own_by_uuid(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(local.subprocess, "Popen", lambda command, env, **_: started.append(env))
    settings = decided("cuda", runs_path=tmp_path / "runs", run_name="a")
    run = lifecycle.create(settings, hostfile.hostfile(2, 2))
    launcher = Local()
    launcher.settings, launcher.given = settings, FOUR
    launcher.start(run)
    assert [env["CUDA_VISIBLE_DEVICES"] for env in started] == [",".join(UUIDS[:2]), ",".join(UUIDS[2:])]
    assert {env["CUDA_DEVICE_ORDER"] for env in started} == {"PCI_BUS_ID"}


def in_containers(monkeypatch, *device_ids):
    """Let the compose files give the two nodes these cards."""
    given = dict(zip(hostfile.node_names(2), device_ids, strict=True))
    monkeypatch.setattr(compose.Stack, "device_ids", lambda self: given)
    return compose.Stack(resolve(load(None), "cuda", "compose"))


def test_a_run_in_containers_is_planned_for_their_cards(here, monkeypatch):
    here(FOUR)
    stack = in_containers(monkeypatch, ["3", "GPU-8932f937-d72c-4106"], ["1", "2"])
    assert [gpu.index for gpu in stack.cards()] == [3, 0, 1, 2]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert [gpu.index for gpu in stack.cards()] == [3, 0, 1, 2]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(SettingsError, match="CUDA_VISIBLE_DEVICES=0,1: the nodes' containers get the GPUs 3, GPU-89"):
        stack.cards()
    assert in_containers(monkeypatch, ["7"], ["8"]).cards() == []
