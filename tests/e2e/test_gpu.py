"""What only NVIDIA GPUs show: their kernels, and a run on one of them and on two."""

import os
import subprocess
import sys

import numpy as np
import pynvml
import pytest
import torch
import transformers

from sft.host import gpus
from sft.run.directory import Run
from sft.trainer import attention
from sft.trainer.attention_options import Options
from sft.trainer.indices import CheckedIndices
from sft.trainer.packed import Packed

from .conftest import STEPS
from .project import TIMEOUT_S, metrics, small, wait_until
from .test_models import openai_gpt
from .test_same_result import plain_pytorch

GPUS = torch.cuda.device_count()
pytestmark = [
    pytest.mark.real,  # CUDA in a fork of a process that has asked for its devices does not start
    pytest.mark.skipif(not GPUS, reason="no NVIDIA GPU is visible here; run `make test` on a machine with one"),
]
# What CUDA's driver shows: the UUID of every device, in order.
SHOWN = """
import ctypes, uuid
cuda = ctypes.CDLL("libcuda.so.1")
number, found = ctypes.c_int(), (ctypes.c_byte * 16)()
if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(number)) == 0:
    for device in range(number.value):
        assert cuda.cuDeviceGetUuid_v2(ctypes.byref(found), device) == 0
        print("GPU-" + str(uuid.UUID(bytes=bytes(found))))
"""
ON_ONE = {"DEVICE": "cuda", "NODES": 1, "GPUS_PER_NODE": 1, "GLOBAL_BATCH_SIZE": 8, "MAX_STEPS": 100}


@pytest.fixture(scope="module")
def undisturbed(project):
    """A run of a hundred steps on one GPU, evaluated."""
    return project.train("gpu", **ON_ONE, EVALUATE=1, EVAL_LIMIT=8, MAX_NEW_TOKENS=16)


def test_a_way_that_fails_with_an_index_out_of_range_leaves_the_gpu_usable():
    table = torch.ones(4, 2, device="cuda")
    with CheckedIndices(), pytest.raises(IndexError):
        torch.nn.functional.embedding(torch.tensor([4], device="cuda"), table)
    assert float(table.sum()) == 8


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize(("softcap", "sinks"), [(0.0, False), (2.0, False), (0.0, True)])
@pytest.mark.parametrize("window", [0, 16])
def test_the_kernel_attends_as_one_sequence_after_another_does(window, softcap, sinks, size):
    heads, groups = 8, 2
    torch.manual_seed(0)
    extra = [torch.randn(heads, device="cuda", dtype=torch.bfloat16)] if sinks else []
    for lengths in ([5, 300, 17], [40, 7, 130, 1, 90, 200]):
        starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device="cuda")
        packed, options = Packed(starts, lengths), Options(None, window, 0.0, softcap)
        inputs = [
            torch.randn(sum(lengths), n, size, device="cuda", dtype=torch.bfloat16) for n in (heads, groups, groups)
        ]
        wanted = torch.randn(sum(lengths), heads, size, device="cuda", dtype=torch.bfloat16)
        found = []
        kernel = attention.fastest("cuda", torch.bfloat16, options._replace(sinks=extra[0] if sinks else None))
        assert kernel is not attention.one_by_one
        for attend in (kernel, attention.one_by_one):
            taken = [part.clone().requires_grad_() for part in (*inputs, *extra)]
            output = attend(*taken[:3], packed, options._replace(sinks=taken[3] if sinks else None))
            found.append([output, *torch.autograd.grad(output, taken, wanted)])
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, atol=5e-2, rtol=5e-2)


def of_steps(run, name):
    """Return a metric of every training step: the evaluations' lines do not have it."""
    return [value for (value,) in metrics(run, name) if value is not None]


def test_a_run_is_trained_and_evaluated(undisturbed):
    losses = of_steps(undisturbed, "train/loss")
    assert len(losses) == 100 and losses[-1] < losses[0]
    assert all(peak > 0 for peak in of_steps(undisturbed, "mem/peak_gib"))
    assert undisturbed.evaluation.is_file() and (undisturbed.final / "model.safetensors").is_file()


@pytest.mark.parametrize("gpus", [1, 2])
def test_stopped_and_resumed_on_as_many_gpus_or_more(project, undisturbed, gpus):
    if gpus > GPUS:
        pytest.skip(f"{GPUS} GPU is visible here, {gpus} are needed")
    run = Run(project.path / "runs" / f"gpu-resumed-on-{gpus}")
    process = project.start("train", **small(RUN_NAME=run.name, **ON_ONE))
    wait_until(lambda: run.state().step >= 4, process, run)
    run.request_stop("the test asked for it")
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    assert run.state().status == "stopped" and run.state().step < 100
    assert project.train(run.name, **ON_ONE | {"GPUS_PER_NODE": gpus}).state().status == "finished"
    for ours, theirs in zip(of_steps(run, "train/loss"), of_steps(undisturbed, "train/loss"), strict=True):
        assert ours == pytest.approx(theirs, rel=5e-2)  # bf16, and kernels that add up in any order


def shown_by_cuda(visible_devices):
    """Return the UUIDs of the devices that CUDA shows for this CUDA_VISIBLE_DEVICES; None: it is not set."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} | (
        {} if visible_devices is None else {"CUDA_VISIBLE_DEVICES": visible_devices}
    )
    done = subprocess.run([sys.executable, "-c", SHOWN], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_gpus_of_cuda_visible_devices_are_those_that_cuda_shows():
    everything = gpus.facts()
    if any(gpu.in_mig_mode for gpu in everything):
        pytest.skip("a GPU is cut into instances here, which are shown under their own names")
    first, last = everything[0].uuid, everything[-1].uuid
    beyond, end = len(everything), everything[-1].index
    short = next(
        last[:n] for n in range(5, len(last) + 1) if sum(gpu.uuid.startswith(last[:n]) for gpu in everything) == 1
    )
    for visible_devices in (
        None, "", "0", f"{end}", f"{end},-1,0", f"0,{beyond},{end}", f"{beyond}", "0,0", first, last, short,
        f"{last},{first}", f"{last},GPU-00000000", f"{first},{first}", "nonsense", "MIG-nonsense",
    ):  # fmt: skip
        chosen = [gpu.uuid for gpu in gpus.chosen(everything, visible_devices)]
        assert chosen == shown_by_cuda(visible_devices), f"CUDA_VISIBLE_DEVICES={visible_devices}"


def cards_of(pids):
    """The UUIDs of the cards on which these processes compute: other tests may use any of them at the same time."""
    pynvml.nvmlInit()
    cards = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    return [
        pynvml.nvmlDeviceGetUUID(card)
        for card in cards
        if pids & {one.pid for one in pynvml.nvmlDeviceGetComputeRunningProcesses(card)}
    ]


@pytest.mark.parametrize("ds_config", ["zero3", "zero2"])  # DeepSpeed reads CUDA_VISIBLE_DEVICES in its stages 1 and 2
def test_a_run_trains_on_the_card_that_it_is_told_by_uuid(project, ds_config):
    last = gpus.visible()[-1]
    run = Run(project.path / "runs" / f"gpu-by-uuid-{ds_config}")
    one = ON_ONE | {"MAX_STEPS": 0, "MAX_EPOCHS": 1000, "CUDA_VISIBLE_DEVICES": last.uuid, "DS_CONFIG": ds_config}
    process = project.start("train", **small(RUN_NAME=run.name, **one))
    wait_until(lambda: run.state().step >= 4, process, run)
    used = cards_of({process.pid for process in project.processes()})
    run.request_stop("the test has seen enough")
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    assert run.nodes()[0].gpus == [last.uuid]
    if not used:
        pytest.skip("NVML knows processes by other numbers here, as in a container; run `make test` outside of it")
    assert used == [last.uuid]


@pytest.mark.parametrize("gpus", [1, 2])
def test_no_gradient_is_lost_where_layers_return_lists(project, undisturbed, tmp_path, gpus):
    if gpus > GPUS:
        pytest.skip(f"{GPUS} GPU is visible here, {gpus} are needed")
    tokenizer = transformers.AutoTokenizer.from_pretrained(undisturbed.final)
    openai_gpt(tokenizer, tmp_path)
    on = {"DEVICE": "cuda", "NODES": 1, "GPUS_PER_NODE": gpus, "PRECISION": "fp32", "MODEL_NAME": tmp_path}
    run = project.train(f"gpu-openai-gpt-{gpus}", **STEPS, **on)
    assert "Block returns a list: ZeRO-3 gathers layers in parts" in run.log_files()[0].read_text()
    for seen, wanted in zip(metrics(run, "train/grad_norm"), plain_pytorch(run, project), strict=True):
        print(f"gradient norm {seen[0]:.6f}, of a plain loop {wanted[2]:.6f}")
        assert seen[0] == pytest.approx(wanted[2], rel=1e-3)
