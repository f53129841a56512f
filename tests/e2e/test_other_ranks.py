"""A run goes on with other ranks than it was stopped with, and its loss curve stays the same up to rounding."""

import functools
import json
import shutil

import pytest

from sft.run import checkpoints
from sft.run.directory import Run

from .conftest import RANKS, STEPS
from .project import metrics, small

NAMES = ("step", "train/loss", "train/grad_norm", "train/lr", "train/target_tokens")
SAVED = 6


def stopped(run, name, step=SAVED):
    """Return a copy of a finished run as it was when it had been stopped after its checkpoint."""
    copy = Run(run.path.with_name(name))
    shutil.copytree(run.path, copy.path, symlinks=True)
    shutil.rmtree(copy.final)
    for later in [later for later in checkpoints.steps(copy.checkpoints) if later > step]:
        shutil.rmtree(copy.checkpoints / checkpoints.name_of(later))
    (copy.checkpoints / "latest").write_text(checkpoints.name_of(step) + "\n")
    copy.update_state("stopped", step=step)
    copy.metrics.write_text("".join(json.dumps(line) + "\n" for line in run.read_metrics() if line["step"] <= step))
    return copy


@pytest.mark.parametrize(("before", "now"), [(1, 2), (2, 4), (4, 1), (2, 2)])
def test_resumed_on_other_ranks_the_losses_are_the_same(project, on_ranks, before, now):
    undisturbed = on_ranks(before)
    run = stopped(undisturbed, f"from-{before}-on-{now}")
    done = project.inv("train", **small(RUN_NAME=run.name, SAVE_STEPS=4, **STEPS, **RANKS[now]))
    assert done.returncode == 0, done.stdout + "".join(path.read_text() for path in run.log_files())
    assert f"step {SAVED} of 12: resumed" in run.log_files()[0].read_text()
    seen, wanted = metrics(run, *NAMES), metrics(undisturbed, *NAMES)
    assert len(seen) == 12
    if before == now:
        assert seen == wanted
    for ours, theirs in zip(seen, wanted, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)
    assert sorted(path.name for path in run.checkpoints.glob("*step*")) == ["step-000008", "step-000012"]


OTHER_KINDS = [("zero2", 1), ("zero3_offload", 2), ("zero3_offload_all", 1)]


@pytest.fixture(scope="module")
def of_another_kind(project):
    """Return what gives a finished run over two nodes with another DS_CONFIG than zero3."""
    return functools.cache(lambda kind: project.train(kind, SAVE_STEPS=SAVED, DS_CONFIG=kind, **STEPS, **RANKS[2]))


@pytest.mark.parametrize(("kind", "now"), OTHER_KINDS)
def test_other_kinds_of_zero_go_on_with_other_ranks(project, base, of_another_kind, kind, now):
    run = stopped(of_another_kind(kind), f"{kind}-on-{now}")
    done = project.inv("train", **small(RUN_NAME=run.name, DS_CONFIG=kind, **STEPS, **RANKS[now]))
    assert done.returncode == 0, done.stdout + "".join(path.read_text() for path in run.log_files())
    for ours, theirs in zip(metrics(run, *NAMES), metrics(base, *NAMES), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)


def test_other_ranks_with_another_batch_are_refused(project, on_ranks):
    run = stopped(on_ranks(2), "another-batch")
    settings = {name: value for name, value in STEPS.items() if name != "GLOBAL_BATCH_SIZE"}
    done = project.inv("train", **small(RUN_NAME=run.name, **settings, **RANKS[1]))
    assert done.returncode == 2
    assert "GLOBAL_BATCH_SIZE=2: the unfinished run " in done.stdout
    assert " has 8; set GLOBAL_BATCH_SIZE=8 to resume, or FRESH=1" in done.stdout
