"""Writing a checkpoint in the background: what is copied, and a disk that fills up at any byte of it."""

import copy
import random
from pathlib import Path

import pytest
import torch

from sft import checkpoints, cluster
from sft import run as runs
from sft.errors import RunFailed
from sft.settings import Settings
from sft.trainer import checkpoint, saving
from sft.trainer.distributed import World

from ..e2e import harm

ALONE = World(0, 0, 1, torch.device("cpu"))
FILL_UPS = 20


class Engine:
    """What a Saver changes of DeepSpeed's engine."""

    checkpoint_engine = None


def states(folder: Path, step: int):
    shard = {"exp_avg": torch.full((300_000,), float(step)), "groups": [{"lr": 0.1}], "step": step}
    return {folder / "zero_pp_rank_0_model_states.pt": {"shapes": (1, 2)}, folder / "zero_pp_rank_0_optim.pt": shard}


def saver_in(folder: Path, keep: int = 2):
    run = runs.create(Settings.load(None, runs_path=folder, run_name="a"), cluster.hostfile(1, 1))
    return saving.Saver(Engine(), run, keep, ALONE)


def save(saver, step):
    temporary = saver.temporary(step)
    temporary.mkdir()
    saver.write(step, states(temporary, step))


def names(saver):
    return sorted(path.name for path in saver.run.checkpoints.iterdir())


def test_a_checkpoint_gets_its_name_with_all_its_files_and_the_oldest_goes(tmp_path):
    saver = saver_in(tmp_path)
    for step in (1, 2, 3):
        save(saver, step)
    saver.check()
    assert names(saver) == ["latest", "step-000002", "step-000003"]
    assert (saver.run.checkpoints / "latest").read_text() == "step-000003\n"
    newest = saver.run.checkpoints / "step-000003"
    content = checkpoints.manifest(newest)
    assert content["step"] == 3 and content["files"] == checkpoint.share(newest, ALONE)
    assert torch.load(newest / "zero_pp_rank_0_optim.pt")["step"] == 3


def test_a_disk_that_fills_up_at_any_byte_leaves_the_checkpoint_before(tmp_path):
    rng = random.Random(0)
    try:
        with harm.small_disk(tmp_path / "small", "8m") as disk:
            saver = saver_in(disk)
            save(saver, 1)
            saver.check()
            first = saver.run.checkpoints / "step-000001"
            size = sum(path.stat().st_size for path in first.iterdir())
            for step in range(2, 2 + FILL_UPS):
                harm.fill(disk / "filler", rng.randrange(size))
                save(saver, step)
                with pytest.raises(RunFailed, match=r"step-0000\d\d: could not be written \(No space left on device"):
                    saver.check()
                assert not list(saver.run.checkpoints.rglob(f".step-{step:06d}/*.pt"))
                (disk / "filler").unlink()
                assert checkpoints.manifest(first)["files"] == checkpoint.share(first, ALONE)
                assert (saver.run.checkpoints / "latest").read_text() == "step-000001\n"
                saver.error = None
            save(saver, 99)
            saver.check()
            assert "step-000099" in names(saver)
    except PermissionError as error:
        pytest.skip(str(error))


def test_too_little_room_is_found_out_before_and_says_how_much_is_missing(tmp_path):
    try:
        with harm.small_disk(tmp_path / "small", "8m") as disk:
            saver = saver_in(disk)
            message = r"it needs 2\.0 GiB, [67]\.\d MiB are free, 2\.0 GiB are missing\); free some space at RUNS_PATH"
            with pytest.raises(RunFailed, match=message):
                saver.check_room(saver.run.checkpoints / "step-000001", 2 * 2**30)
            saver.check_room(saver.run.checkpoints / "step-000001", 2**20)
    except PermissionError as error:
        pytest.skip(str(error))


def test_copies_share_nothing_with_what_training_changes():
    flat = torch.arange(10.0)
    group = {"lr": 0.1}
    state = {"part": flat[2:4], "same": flat[2:4], "other": flat, "groups": [group], "pair": (flat, 1)}
    wanted = copy.deepcopy(state)
    copies = saving.HostCopies()
    copies.save(state, "a/shard.pt")
    flat.zero_()
    group["lr"] = 0.2
    taken, needed = copies.take()
    found = taken[Path("a/shard.pt")]
    assert torch.equal(found["part"], wanted["part"]) and torch.equal(found["pair"][0], wanted["other"])
    assert found["part"] is found["same"] and found["part"].untyped_storage().nbytes() == 8
    assert found["groups"] == [{"lr": 0.1}]
    assert needed >= 48 and copies.take() == ({}, 0.0)


def test_a_rank_does_not_wait_for_others_of_a_broken_run(tmp_path):
    saver = saver_in(tmp_path)
    saver.world = World(0, 0, 2, torch.device("cpu"))
    saver.run.fail("rank 1: broken")
    save(saver, 1)
    with pytest.raises(RunFailed, match="rank 1: broken"):
        saver.check()
    assert "latest" not in names(saver)
