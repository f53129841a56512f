"""What several NVIDIA GPUs show: one curve on all of them, also if a run is stopped, killed or short of memory."""

import json

import pytest
import torch

from sft.run import budget
from sft.run.directory import Run
from sft.settings.deepspeed import ROOT

from .project import CURVE, DELAYS, TIMEOUT_S, Hold, metrics, small, wait_until
from .test_out_of_memory import on_small_card

GPUS = torch.cuda.device_count()
pytestmark = [
    pytest.mark.real,  # CUDA in a fork of a process that has asked for its devices does not start
    pytest.mark.skipif(
        GPUS < 2, reason=f"{GPUS} NVIDIA GPUs are visible here, 2 are needed; run `make test` on a machine with more"
    ),
]
STEPS = {"DEVICE": "cuda", "PRECISION": "fp32", "GLOBAL_BATCH_SIZE": 64, "MAX_STEPS": 12, "SAVE_STEPS": 4}
TWO = {"DEVICE": "cuda", "NODES": 2, "GPUS_PER_NODE": 1, "GLOBAL_BATCH_SIZE": 8}


def on(nodes, gpus):
    """Return the settings of the run that is compared, on so many GPUs of so many nodes."""
    if nodes * gpus > GPUS:
        pytest.skip(f"{GPUS} GPUs are visible here, {nodes * gpus} are needed")
    return STEPS | {"NODES": nodes, "GPUS_PER_NODE": gpus}


@pytest.fixture(scope="module")
def alone(project):
    """A finished run on one GPU."""
    return project.train("gpus-1", **on(1, 1))


def assert_same_curve(run, wanted):
    found, lines = metrics(run, *CURVE), metrics(wanted, *CURVE)
    print(f"{run.name}: losses apart by {max(abs(a[1] / b[1] - 1) for a, b in zip(found, lines, strict=True)):.1e}")
    for ours, theirs in zip(found, lines, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)  # kernels add up in any order


@pytest.mark.parametrize(("nodes", "gpus"), [(1, 2), (2, 1), (1, 4), (2, 2)])
def test_any_layout_has_the_curve_of_one_gpu(project, alone, nodes, gpus):
    assert_same_curve(project.train(f"gpus-{nodes}-{gpus}", **on(nodes, gpus)), alone)


@pytest.mark.parametrize("layouts", [((2, 1), (1, 1), (1, 2)), ((2, 2), (1, 2), (1, 4))])
def test_stopped_and_resumed_on_fewer_and_on_more_the_curve_is_the_same(project, alone, tmp_path, layouts):
    everywhere = [on(*layout) for layout in layouts]
    run = Run(project.path / "runs" / f"gpus-resumed-{len(layouts)}-{everywhere[0]['GPUS_PER_NODE']}")
    for step, settings in zip((3, 7), everywhere, strict=False):
        hold = Hold(tmp_path, step)
        process = project.start("train", **small(RUN_NAME=run.name, **settings, **hold.settings))
        hold.wait(process, run)
        hold.stop(project, process, run)
        output, _ = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, output
        assert run.state().status == "stopped" and step <= run.state().step < step + 3
    assert_same_curve(project.train(run.name, **everywhere[-1]), alone)


@pytest.mark.parametrize(("nodes", "gpus"), [(2, 1), (2, 2)])
def test_a_killed_rank_ends_the_run_with_the_reason_and_resumed_the_curve_is_the_same(
    project, alone, tmp_path, nodes, gpus
):
    run = Run(project.path / "runs" / f"gpus-killed-{nodes * gpus}")
    settings, hold = on(nodes, gpus), Hold(tmp_path, 7)
    process = project.start("train", **small(RUN_NAME=run.name, **settings, **hold.settings))
    hold.wait(process, run)
    next(found for found in project.processes() if found.environ().get("RANK") == "1").kill()
    hold.release()
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1, output
    assert "rank 1 was killed by signal 9" in run.state().error
    project.wait_for_no_process()
    assert_same_curve(project.train(run.name, **settings), alone)


@pytest.mark.parametrize(("nodes", "gpus"), [(1, 2), (2, 2)])
def test_out_of_memory_on_one_gpu_the_run_goes_on_with_the_same_curve(project, alone, nodes, gpus):
    limit = {"rank": 1, "where": "forward", "from_step": 6, "tokens": 200}
    run = project.train(f"gpus-memory-{nodes * gpus}", **on(nodes, gpus), **on_small_card(limit))
    cuts = budget.cuts(run)
    assert cuts and all(cut.rank == 1 and cut.step == "step 6" for cut in cuts), cuts
    assert_same_curve(run, alone)


def test_over_quantised_weights_rows_are_packed_and_train_as_padded_ones_do(project, tmp_path):
    """ZeRO++ gathers the weights rounded to 8 bits, which must not be taken for one row that sees another."""
    path = tmp_path / "zeropp.json"
    content = json.loads((ROOT / "ds_configs" / "zero3.json").read_text())
    content["zero_optimization"] |= {"zero_quantized_weights": True}
    path.write_text(json.dumps(content))
    settings = on(1, 2) | {"DS_CONFIG": path, "PRECISION": "bf16"}
    packed, padded = (project.train(f"gpus-quantised-{packing}", **settings, PACKING=packing) for packing in (1, 0))
    assert json.loads(packed.capabilities.read_text())["packing"]
    losses, wanted = (metrics(run, "step", "train/loss") for run in (packed, padded))
    for ours, theirs in zip(losses, wanted, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-2)  # bf16


def test_over_nccl_too_a_silent_rank_ends_the_run_after_the_steps_limit_with_the_stacks(project):
    run = Run(project.path / "runs" / "gpu-silent")
    settings = small(RUN_NAME=run.name, **TWO | {"MAX_STEPS": 0, "MAX_EPOCHS": 1000})
    process = project.start("train", **settings, RENDEZVOUS_TIMEOUT_S=10, STEP_TIMEOUT_S=20)
    wait_until(lambda: run.state().step >= 5, process, run)
    next(found for found in project.processes() if found.environ().get("RANK") == "0").suspend()
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1, output
    assert "no sign of the ranks within STEP_TIMEOUT_S=20 seconds, after step " in run.state().error
    assert "most recent call first" in (run.logs / "stacks-rank-1.txt").read_text()
    project.wait_for_no_process()


def test_over_nccl_too_an_export_may_take_longer_than_ranks_wait_to_meet(project):
    delays = {"PYTHONPATH": DELAYS, "EXPORT_DELAY_S": 15}
    run = project.train("gpu-slow-export", **TWO, RENDEZVOUS_TIMEOUT_S=10, **delays)
    assert run.state().seconds["saving"] > 15
