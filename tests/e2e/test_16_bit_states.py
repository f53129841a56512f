"""OPTIMIZER_BITS=16: nearly the loss curve of 32 bits, resumed to the bit, and on other ranks."""

import functools
import json

import pytest
import torch
from safetensors.torch import load_file

from sft.host.plan import cards, shapes
from sft.host.plan.job import Job

from .conftest import RANKS, STEPS
from .project import CURVE, metrics, small, stopped

SAVED = 6
LOSS = CURVE.index("train/loss")
SETTINGS = {"PRECISION": "bf16", "SAVE_STEPS": SAVED, **STEPS}


@pytest.fixture(scope="module")
def run_of(project):
    """Return what gives a finished run over two nodes with states in so many bits."""
    return functools.cache(
        lambda bits, kind: project.train(f"{kind}-{bits}", OPTIMIZER_BITS=bits, DS_CONFIG=kind, **SETTINGS, **RANKS[2])
    )


def resumed(project, undisturbed, kind, ranks):
    """Return a run that begins at the checkpoint of another, on so many ranks."""
    run = stopped(undisturbed, f"{undisturbed.name}-on-{ranks}", SAVED)
    done = project.inv(
        "train", **small(RUN_NAME=run.name, OPTIMIZER_BITS=16, DS_CONFIG=kind, **SETTINGS, **RANKS[ranks])
    )
    assert done.returncode == 0, done.stdout + "".join(path.read_text() for path in run.log_files())
    assert f"step {SAVED} of 12: resumed" in run.log_files()[0].read_text()
    return run


@pytest.mark.parametrize("kind", ["zero3", "zero2"])
def test_the_curve_is_nearly_that_of_32_bits_in_half_the_checkpoint(run_of, kind):
    ours, usual = run_of(16, kind), run_of(32, kind)
    seen, wanted = ([line[LOSS] for line in metrics(run, *CURVE)] for run in (ours, usual))
    assert seen == pytest.approx(wanted, rel=0.01) and seen[-1] < seen[0]
    assert seen != wanted
    size = {run: sum(path.stat().st_size for path in run.checkpoints.glob("step-*/*.pt")) for run in (ours, usual)}
    assert 0.45 < size[ours] / size[usual] < 0.7
    assert all(tensor.dtype == torch.bfloat16 for tensor in load_file(ours.final / "model.safetensors").values())


def test_zero3_keeps_as_many_weights_as_the_plan_counts(project, run_of):
    run = run_of(16, "zero3")
    model = project.path / json.loads(run.prepared.read_text())["model"]
    wanted = Job.of(run.settings(), shapes.read(model / "config.json"), cards.need("4090")).max_live
    zero = json.loads(run.ds_config.read_text())["zero_optimization"]
    assert zero["stage3_max_live_parameters"] == zero["stage3_max_reuse_distance"] == wanted


@pytest.mark.parametrize("kind", ["zero3", "zero2"])
def test_on_the_same_ranks_it_goes_on_to_the_bit(project, run_of, kind):
    undisturbed = run_of(16, kind)
    run = resumed(project, undisturbed, kind, 2)
    assert metrics(run, *CURVE) == metrics(undisturbed, *CURVE)
    ours, theirs = (path.final / "model.safetensors" for path in (run, undisturbed))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("kind", ["zero3", "zero2"])
def test_on_other_ranks_it_goes_on_with_other_random_bits(project, run_of, kind):
    undisturbed = run_of(16, kind)
    run = resumed(project, undisturbed, kind, 1)
    for seen, wanted in zip(metrics(run, *CURVE), metrics(undisturbed, *CURVE), strict=True):
        assert seen[LOSS] == pytest.approx(wanted[LOSS], rel=0.01)


def test_other_bits_are_refused_for_an_unfinished_run(project, run_of):
    run = stopped(run_of(16, "zero3"), "other-bits", SAVED)
    done = project.inv("train", **small(RUN_NAME=run.name, **SETTINGS, **RANKS[2]))
    assert done.returncode == 2
    assert "OPTIMIZER_BITS=32: the unfinished run " in done.stdout
    assert " has 16; set it to 16 to resume, or FRESH=1 to start a new run" in done.stdout
