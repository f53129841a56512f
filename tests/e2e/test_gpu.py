"""What only NVIDIA GPUs show: their kernels, and a run on one of them and on two."""

import numpy as np
import pytest
import torch

from sft.run import Run
from sft.trainer import attention
from sft.trainer.attention import Options, Packed

from .project import metrics, small, wait_until

GPUS = torch.cuda.device_count()
pytestmark = pytest.mark.skipif(not GPUS, reason="no NVIDIA GPU is visible here; run `make test` on a machine with one")
ON_ONE = {"DEVICE": "cuda", "NODES": 1, "GPUS_PER_NODE": 1, "GLOBAL_BATCH_SIZE": 8, "MAX_STEPS": 100}


@pytest.fixture(scope="module")
def undisturbed(project):
    """A run of a hundred steps on one GPU, evaluated."""
    return project.train("gpu", **ON_ONE, EVALUATE=1, EVAL_LIMIT=8, MAX_NEW_TOKENS=16)


@pytest.mark.parametrize("window", [0, 16])
def test_the_kernel_attends_as_one_sequence_after_another_does(window):
    lengths, heads, groups, size = [5, 300, 17], 8, 2, 64
    starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device="cuda")
    packed, options = Packed(starts, lengths), Options(None, window, 0.0)
    torch.manual_seed(0)
    inputs = [torch.randn(sum(lengths), n, size, device="cuda", dtype=torch.bfloat16) for n in (heads, groups, groups)]
    wanted = torch.randn(sum(lengths), heads, size, device="cuda", dtype=torch.bfloat16)
    found = []
    kernel = attention.fastest("cuda", torch.bfloat16, dropout=False)
    assert kernel is not attention.one_by_one
    for attend in (kernel, attention.one_by_one):
        taken = [part.clone().requires_grad_() for part in inputs]
        output = attend(*taken, packed, options)
        found.append([output, *torch.autograd.grad(output, taken, wanted)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=3e-2, rtol=3e-2)


def test_a_run_is_trained_and_evaluated(undisturbed):
    losses = [loss for (loss,) in metrics(undisturbed, "train/loss")]
    assert len(losses) == 100 and losses[-1] < losses[0]
    assert all(peak > 0 for (peak,) in metrics(undisturbed, "mem/peak_gib"))
    assert undisturbed.evaluation.is_file() and (undisturbed.final / "model.safetensors").is_file()


@pytest.mark.parametrize("gpus", [1, 2])
def test_stopped_and_resumed_on_as_many_gpus_or_more(project, undisturbed, gpus):
    if gpus > GPUS:
        pytest.skip(f"{GPUS} GPU is visible here, {gpus} are needed")
    run = Run(project.path / "runs" / f"gpu-resumed-on-{gpus}")
    process = project.start("train", **small(RUN_NAME=run.name, **ON_ONE))
    wait_until(lambda: run.state().get("step", 0) >= 4, process, run)
    run.request_stop("the test asked for it")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert run.state()["status"] == "stopped" and run.state()["step"] < 100
    assert project.train(run.name, **ON_ONE | {"GPUS_PER_NODE": gpus}).state()["status"] == "finished"
    for ours, theirs in zip(metrics(run, "train/loss"), metrics(undisturbed, "train/loss"), strict=True):
        assert ours == pytest.approx(theirs, rel=5e-2)  # bf16, and kernels that add up in any order
