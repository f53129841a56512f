"""Writing a checkpoint in the background: what is copied, and a disk that fills up at any byte of it."""

import copy
import errno
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from sft import hostfile
from sft.errors import RunFailed, UserError
from sft.run import checkpoints, lifecycle
from sft.run import directory as runs
from sft.run.records import Failure
from sft.trainer.checkpoint import disk, resume, shards
from sft.trainer.checkpoint import save as saving
from sft.trainer.distributed import World
from tests.settings import decided

from ..e2e import harm
from . import save_bits

ALONE = World(0, 0, 1, torch.device("cpu"))
FILL_UPS = 20
ROOT = Path(__file__).resolve().parents[2]


class Engine:
    """What a Saver changes of DeepSpeed's engine."""

    checkpoint_engine = None


def states(folder: Path, step: int):
    shard = {"exp_avg": torch.full((300_000,), float(step)), "groups": [{"lr": 0.1}], "step": step}
    return {folder / "zero_pp_rank_0_model_states.pt": {"shapes": (1, 2)}, folder / "zero_pp_rank_0_optim.pt": shard}


def saver_in(folder: Path, keep: int = 2):
    run = lifecycle.create(decided(runs_path=folder, run_name="a"), hostfile.hostfile(1, 1))
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
    assert content.step == 3 and content.files == resume.share(newest, sorted(content.files), ALONE)
    assert torch.load(newest / "zero_pp_rank_0_optim.pt")["step"] == 3


def test_a_checkpoint_may_get_its_name_at_the_moment_when_the_last_rank_is_done(tmp_path, monkeypatch):
    saver = saver_in(tmp_path)
    saver.world = World(1, 0, 2, torch.device("cpu"))
    temporary = saver.temporary(1)
    temporary.mkdir()
    replace = Path.replace

    def named_at_once(path, target):
        replaced = replace(path, target)
        if target == saving.part(temporary, 1):  # what rank 0 waits for
            temporary.rename(saver.run.checkpoints / "step-000001")
        return replaced

    monkeypatch.setattr(Path, "replace", named_at_once)
    saver.write(1, states(temporary, 1))
    saver.check()


def test_a_resumed_run_that_keeps_fewer_checkpoints_has_their_room_before_it_saves(tmp_path):
    saver = saver_in(tmp_path, keep=3)
    for step in (1, 2, 3):
        save(saver, step)
    saver.check()
    saving.Saver(Engine(), saver.run, 1, ALONE)
    assert names(saver) == ["latest", "step-000003"]


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
                files = checkpoints.manifest(first).files
                assert files == resume.share(first, sorted(files), ALONE)
                assert (saver.run.checkpoints / "latest").read_text() == "step-000001\n"
                saver.error = None
            save(saver, 99)
            saver.check()
            assert "step-000099" in names(saver)
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("flush_s", [0.0, 1000.0], ids=["while it is written", "at its end"])
def test_what_does_not_reach_the_disk_is_no_checkpoint(tmp_path, monkeypatch, flush_s):
    saver = saver_in(tmp_path)
    save(saver, 1)
    calls, flush = [], os.fsync

    def broken(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("_optim.pt"):
            calls.append(descriptor)
            if len(calls) == 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))  # the system says so once
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", broken)
    monkeypatch.setattr(disk, "FLUSH_S", flush_s)
    save(saver, 2)
    with pytest.raises(OSError, match="Input/output error"):
        saver.check()
    assert not list(saver.run.checkpoints.rglob("*-000002/*.pt"))
    assert (saver.run.checkpoints / "latest").read_text() == "step-000001\n"


def test_too_little_room_is_found_out_before_and_says_how_much_is_missing(tmp_path):
    try:
        with harm.small_disk(tmp_path / "small", "8m") as disk:
            saver = saver_in(disk)
            message = r"it needs 2\.0 GiB, [67]\.\d MiB are free, 2\.0 GiB are missing\); free some space at RUNS_PATH"
            with pytest.raises(RunFailed, match=message):
                saving.check_room(saver.run.checkpoints / "step-000001", 2 * 2**30, shutil.disk_usage(disk).free)
            saving.check_room(saver.run.checkpoints / "step-000001", 2**20, shutil.disk_usage(disk).free)
    except PermissionError as error:
        pytest.skip(str(error))


def test_copies_share_nothing_with_what_training_changes():
    flat = torch.arange(10.0)
    group = {"lr": 0.1}
    state = {"part": flat[2:4], "same": flat[2:4], "other": flat, "groups": [group], "pair": (flat, 1)}
    wanted = copy.deepcopy(state)
    found = shards.copied(state)
    flat.zero_()
    group["lr"] = 0.2
    assert torch.equal(found["part"], wanted["part"]) and torch.equal(found["pair"][0], wanted["other"])
    assert found["part"] is found["same"] and found["part"].untyped_storage().nbytes() == 8
    assert found["groups"] == [{"lr": 0.1}]
    assert shards.tensor_bytes(state) == 48


def test_what_is_written_in_pieces_is_what_a_copy_would_be(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "PIECE_BYTES", 64)
    flat = torch.randn(1000)
    state = {
        "part": flat[20:400],
        "same": flat[20:400],
        "half": torch.randn(7, 5).bfloat16(),
        "turned": torch.randn(6, 4).t(),
        "single": torch.tensor(3),
        "empty": [torch.empty(0), torch.empty(0, 4)],
        "marks": torch.arange(9) % 2 == 0,
        "ordered": OrderedDict(b=(flat[:3], 1), a="text"),
        "none": None,
    }
    shards.write_in_pieces(state, tmp_path / "pieces.pt")
    torch.save(shards.copied(state), tmp_path / "whole.pt")
    found, wanted = (torch.load(tmp_path / name, weights_only=False) for name in ("pieces.pt", "whole.pt"))
    assert not list(save_bits.differences(found, wanted)) and not list(save_bits.differences(found, state))
    assert found["part"].untyped_storage().nbytes() == 4 * 380  # of the larger tensor its part alone
    assert found["part"] is found["same"]


def test_a_tensor_hidden_in_an_object_is_refused_and_never_left_out(tmp_path):
    class Hidden:
        tensor = torch.ones(3)

        def __reduce__(self):
            return dict, ([("tensor", self.tensor)],)

    with pytest.raises(RuntimeError, match="other tensors than it was given"):
        shards.write_in_pieces({"a": torch.ones(2), "hidden": Hidden()}, tmp_path / "a.pt")


def test_ranks_that_share_memory_need_room_for_all_their_copies():
    gib = 2**30
    alone = {"machine a": 100 * gib}
    assert not saving.no_room_for_copies([(40 * gib, alone), (40 * gib, alone)])
    assert saving.no_room_for_copies([(40 * gib, alone)] * 3) == (
        "the copy of a checkpoint needs 120.0 GiB of main memory, 100.0 GiB are free"
    )
    assert not saving.no_room_for_copies([(40 * gib, alone), (40 * gib, {"machine b": 50 * gib}), (40 * gib, alone)])
    containers = [(40 * gib, {"machine a": 900 * gib, f"group {i}": 50 * gib}) for i in range(2)]
    assert not saving.no_room_for_copies(containers)
    containers.append((40 * gib, {"machine a": 900 * gib, "group 1": 48 * gib}))
    assert "needs 80.0 GiB of main memory, 48.0 GiB are free" in saving.no_room_for_copies(containers)
    assert not saving.no_room_for_copies([(40 * gib, {})])  # a system that does not say


def test_deepspeeds_states_are_the_same_with_copies_and_in_pieces(tiny):
    done = subprocess.run(
        [sys.executable, "-m", "tests.torch.save_bits", str(tiny)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == list(save_bits.KINDS)
    for name, seen in found.items():
        assert seen["different"] == [] and seen["waited"] == [False, True] and seen["resumes_at"] == 2, name
    # What the plan counts (sft/host/plan/memory.py).
    assert found["zero3"]["bytes_a_weight"] == pytest.approx(12, rel=0.01)
    assert found["zero2"]["bytes_a_weight"] == pytest.approx(14, rel=0.01)
    assert found["zero3-16-bits"]["bytes_a_weight"] == pytest.approx(6, rel=0.01)
    assert found["zero2-16-bits"]["bytes_a_weight"] == pytest.approx(8, rel=0.01)
    assert all(seen["one_copy"] == ("16-bits" in name) for name, seen in found.items())
    assert done.stdout.count("training waits while a checkpoint is written") == len(found)


PEAK = """
import json, re, sys, torch
from pathlib import Path
from sft.trainer.checkpoint import shards
folder = Path(sys.argv[1])
state = {"a": torch.ones(25_000_000), "b": [torch.ones(25_000_000), torch.ones(25_000_000)]}
# Not ru_maxrss, which begins with the peak of the process that started this one.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
shards.write_in_pieces({"a": torch.ones(10)}, folder / "first.pt")
peaks = [peak()]
shards.write_in_pieces(state, folder / "a.pt")
peaks.append(peak())
shards.copied(state)
peaks.append(peak())
print(json.dumps(peaks))
"""


def test_writing_in_pieces_takes_little_memory_however_much_is_written(tmp_path):
    program = [sys.executable, "-c", PEAK, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, check=True)
    before, pieces, copies = json.loads(done.stdout.splitlines()[-1])
    assert (tmp_path / "a.pt").stat().st_size > 300_000_000
    assert pieces - before < 150_000_000 < 280_000_000 < copies - before


def test_a_disk_that_fills_up_while_training_waits_leaves_the_checkpoint_before(tmp_path):
    try:
        with harm.small_disk(tmp_path / "small", "8m") as disk:
            saver = saver_in(disk)
            save(saver, 1)
            harm.fill(disk / "filler", 500_000)
            temporary = saver.temporary(2)
            temporary.mkdir()
            shards = states(temporary, 2)
            saver.write_now(shards, "")
            saver.write(2, shards)
            with pytest.raises(RunFailed, match="step-000002: could not be written \\(No space left on device"):
                saver.check()
            assert not list(temporary.glob("*.pt"))
            assert (saver.run.checkpoints / "latest").read_text() == "step-000001\n"
    except PermissionError as error:
        pytest.skip(str(error))


def test_a_rank_does_not_wait_for_others_of_a_broken_run(tmp_path):
    saver = saver_in(tmp_path)
    saver.world = World(0, 0, 2, torch.device("cpu"))
    saver.run.fail(Failure(kind="killed", reason="rank 1: broken"))
    save(saver, 1)
    with pytest.raises(RunFailed, match="rank 1: broken"):
        saver.check()
    assert "latest" not in names(saver)


def test_what_killed_starts_left_among_the_checkpoints_is_removed_when_the_run_goes_on(tmp_path):
    """Half a save, half of a removed checkpoint, and a universal form: of a checkpoint that the run then passed by."""
    folder = saver_in(tmp_path).run.checkpoints
    left = (".step-000009", ".step-000003.0123abcd.tmp", "step-000006.universal", ".step-000006.universal.0123abcd.tmp")
    for name in (*left, "step-000004.damaged"):
        (folder / name).mkdir()
        (folder / name / "large").write_text("x")
    assert resume.resume(None, runs.Run(folder.parent), ALONE) == 0
    assert [path.name for path in folder.iterdir()] == ["step-000004.damaged"]


def test_a_rank_that_never_sees_a_checkpoint_names_its_host(tmp_path, monkeypatch):
    """Each rank would wait, and the run end hours later as one without a sign."""
    monkeypatch.setattr(resume, "SEEN_WITHIN_S", 0.0)
    run = saver_in(tmp_path).run
    line = f"step-000001: {socket.gethostname()} does not see it, and the first node does; mount it there"
    with pytest.raises(UserError, match=line):
        resume.damage(run.checkpoints / "step-000001", run, ALONE)


def test_a_checkpoint_that_has_done_its_work_goes_and_the_one_before_is_the_latest(tmp_path):
    saver = saver_in(tmp_path)
    for step in (1, 2):
        save(saver, step)
    saver.forget(2)
    saver.forget(2)  # as where there was no room for it
    assert names(saver) == ["latest", "step-000001"]
    assert (saver.run.checkpoints / "latest").read_text() == "step-000001\n"
    saver.forget(1)
    assert names(saver) == []
