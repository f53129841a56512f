"""A run resumes on other ranks than it was stopped on, and its loss curve stays the same up to rounding."""

import functools

import pytest

from .conftest import RANKS, STEPS
from .project import CURVE, metrics, small, stopped

SAVED = 6


@pytest.mark.parametrize(("before", "now"), [(1, 2), (2, 4), (4, 1), (2, 2)])
def test_resumed_on_other_ranks_the_losses_are_the_same(project, on_ranks, before, now):
    undisturbed = on_ranks(before)
    run = stopped(undisturbed, f"from-{before}-on-{now}", SAVED)
    done = project.inv("train", **small(RUN_NAME=run.name, SAVE_STEPS=4, **STEPS, **RANKS[now]))
    assert done.returncode == 0, done.stdout + "".join(path.read_text() for path in run.log_files())
    assert f"step {SAVED} of 12: resumed" in run.log_files()[0].read_text()
    seen, wanted = metrics(run, *CURVE), metrics(undisturbed, *CURVE)
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
    run = stopped(of_another_kind(kind), f"{kind}-on-{now}", SAVED)
    done = project.inv("train", **small(RUN_NAME=run.name, DS_CONFIG=kind, **STEPS, **RANKS[now]))
    assert done.returncode == 0, done.stdout + "".join(path.read_text() for path in run.log_files())
    for ours, theirs in zip(metrics(run, *CURVE), metrics(base, *CURVE), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)


def test_other_ranks_with_another_batch_are_refused(project, on_ranks):
    run = stopped(on_ranks(2), "another-batch", SAVED)
    settings = {name: value for name, value in STEPS.items() if name != "GLOBAL_BATCH_SIZE"}
    done = project.inv("train", **small(RUN_NAME=run.name, **settings, **RANKS[1]))
    assert done.returncode == 2
    assert "GLOBAL_BATCH_SIZE=2: the unfinished run " in done.stdout
    assert " has 8; set GLOBAL_BATCH_SIZE=8 to resume, or FRESH=1" in done.stdout
