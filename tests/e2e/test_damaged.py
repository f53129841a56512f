"""A damaged checkpoint is found out, whatever file of it is damaged and how, and the one before it is used."""

import shutil

import pytest
import torch.distributed

from sft.run.directory import Run
from sft.trainer.checkpoint import resume
from sft.trainer.distributed import World

from .conftest import RANKS, STEPS
from .project import CURVE, DELAYS, metrics, small, stopped

KINDS = ("model_states.pt", "optim_states.pt", "manifest.json")


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path):
    path.unlink()


@pytest.fixture(scope="module")
def undamaged(project):
    """A finished run of twelve steps with a checkpoint after every third one."""
    return project.train("undamaged", SAVE_STEPS=3, KEEP_CHECKPOINTS=9, **STEPS, **RANKS[2])


@pytest.fixture(scope="module")
def alone():
    """A world of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield World(0, 0, 1, torch.device("cpu"))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("harm", [flip_a_byte, cut, remove])
def test_any_damage_of_any_file_is_found_and_named(undamaged, alone, tmp_path, harm):
    whole = undamaged.checkpoints / "step-000006"
    assert resume.damage(whole, undamaged, alone) == ""
    names = [path.name for path in whole.iterdir()]
    assert {kind for name in names for kind in KINDS if name.endswith(kind)} == set(KINDS)
    for name in names:
        assert name.endswith(KINDS), "a kind of file that this test does not know"
        copy = tmp_path / name / whole.name
        shutil.copytree(whole, copy)
        harm(copy / name)
        assert name in resume.damage(copy, undamaged, alone), name


def test_a_checkpoint_of_another_step_or_run_is_not_taken_for_the_runs_own(project, undamaged):
    """It trained on: the weights of step 3 as if they were those of step 9, or those of another learning rate."""
    other = project.train("other-rate", SAVE_STEPS=6, **STEPS | {"LEARNING_RATE": 0.1}, **RANKS[2])
    run = stopped(undamaged, "strange", 3)
    shutil.copytree(run.checkpoints / "step-000003", run.checkpoints / "step-000009")
    shutil.copytree(other.checkpoints / "step-000006", run.checkpoints / "step-000006")
    assert run.saved_step() == 3
    done = project.inv("train", **small(RUN_NAME=run.name, **STEPS, **RANKS[2]))
    assert done.returncode == 0, done.stdout
    assert "step-000009: damaged (it is the checkpoint after step 3); set aside" in done.stdout
    assert "step-000006: damaged (it is another run's); set aside" in done.stdout
    assert metrics(run, *CURVE) == metrics(undamaged, *CURVE)


def test_what_another_machine_does_not_see_yet_is_neither_damaged_nor_passed_over(project, undamaged):
    """Over NFS a rank resumed from another checkpoint than the first one, which took its own for damaged."""
    run = stopped(undamaged, "late", 6)
    hides = {"PYTHONPATH": DELAYS, "HIDES": "step-000006"}
    done = project.inv("train", **small(RUN_NAME=run.name, **STEPS, **RANKS[2], **hides))
    assert done.returncode == 0, done.stdout
    assert "step 6 of 12: resumed" in run.log_files()[0].read_text()
    assert metrics(run, *CURVE) == metrics(undamaged, *CURVE)
    assert not list(run.checkpoints.glob("*.damaged"))


def test_a_checkpoint_that_cannot_be_read_is_said_and_stays(project, undamaged):
    run = stopped(undamaged, "unreadable", 6)
    shard = next((run.checkpoints / "step-000006").glob("*_optim_states.pt"))
    shard.unlink()
    shard.symlink_to("/proc/self/mem")  # reading it fails as on a broken disk
    done = project.inv("train", **small(RUN_NAME=run.name, **STEPS, **RANKS[2]))
    assert done.returncode == 2 and "Traceback" not in done.stdout, done.stdout
    assert f"{shard}: cannot be read (Input/output error); make it readable, or rename " in done.stdout
    assert shard.is_symlink()


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(project, undamaged):
    run = stopped(undamaged, "damaged", 9)
    for path in run.checkpoints.glob("step-000009"):
        flip_a_byte(next(path.glob("*_optim_states.pt")))
    cut(next((run.checkpoints / "step-000006").glob("*_model_states.pt")))
    done = project.inv("train", **small(RUN_NAME="damaged", **STEPS, **RANKS[2]))
    assert done.returncode == 0, done.stdout
    log = run.log_files()[0].read_text()
    assert "step-000009: damaged (" in log and "step-000006: damaged (" in log
    assert "step 3 of 12: resumed" in log
    aside = sorted(path.name for path in run.checkpoints.glob("*.damaged"))
    assert aside == ["step-000006.damaged", "step-000009.damaged"]
    names = ("step", "train/loss", "train/grad_norm")
    assert metrics(Run(run.path), *names) == metrics(undamaged, *names)
