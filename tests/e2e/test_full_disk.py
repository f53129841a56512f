"""A disk that is full, or mounted read-only."""

import os
import shutil
import subprocess
import sys

import pytest

from sft import ROOT, hostfile
from sft.errors import SettingsError
from sft.host.folders import make_folders
from sft.run import lifecycle
from sft.run.records import Failure
from tests.settings import decided


@pytest.fixture
def small(tmp_path):
    """A folder on a disk of 1 MB."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root: run the tests as root")
    yield small
    subprocess.run(["umount", str(small)], check=True)


def fill(folder):
    with (folder / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while filler.write(b"0" * 4096):
            pass


def test_a_stop_is_asked_for_on_a_full_disk(small):
    run = lifecycle.create(decided(runs_path=small, run_name="a"), hostfile.hostfile(2, 2))
    fill(small)
    run.request_stop("SIGTERM")
    assert run.stop_reason() == "SIGTERM"


def test_a_reason_that_is_there_already_needs_no_room_and_what_finds_none_names_the_run(small):
    """What all ranks wrote had taken the reserve: a task ended with "this folder: No space left", and no word of it."""
    run = lifecycle.create(decided(runs_path=small, run_name="a"), hostfile.hostfile(2, 2))
    run.fail(Failure(kind="disk_full", reason="rank 0: no room"))
    run.give_up_reserve()
    fill(small)
    run.fail(Failure(kind="killed", reason="the node programs were killed"))
    assert run.failure().reason == "rank 0: no room"
    with pytest.raises(OSError, match="No space left") as found:
        run.update_state("failed")
    assert found.value.filename == str(run.path)


def test_a_model_that_the_disk_has_no_room_for_is_a_full_disk_whatever_a_library_makes_of_it(small, tmp_path):
    settings = decided(
        runs_path=tmp_path, model_path=small, data_path=tmp_path, run_name="a", model_name="tiny", dataset="demo"
    )
    run = lifecycle.create(settings, hostfile.hostfile(1, 1))
    command = [sys.executable, "-m", "sft.trainer.prepare", "--run", str(run.path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    failure = run.failure()
    assert failure.kind == "disk_full" and "No space left on device" in failure.reason


def test_a_task_that_cannot_write_says_so_in_one_line(small):
    run = lifecycle.create(decided(runs_path=small, run_name="a"), hostfile.hostfile(2, 2))
    run.give_up_reserve()
    lock = run.lock()  # as a node at work
    fill(small)
    command = [sys.executable, "-m", "invoke", "stop", "--name", "a"]
    environment = os.environ | {"RUNS_PATH": str(small)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    lock.close()
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "No space left on device; make room on that disk" in done.stderr


def test_a_run_on_a_disk_that_is_mounted_read_only_is_not_called_closed_by_its_owner(small):
    run = lifecycle.create(decided(runs_path=small, run_name="a"), hostfile.hostfile(2, 2))
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    assert "mounted read-only" in run.not_yours()
    with pytest.raises(SettingsError, match=r"^RUNS_PATH=.*: cannot be written \(Read-only file system\)"):
        make_folders(decided(runs_path=small, data_path=small.parent, model_path=small.parent))


def test_a_clone_that_cannot_be_written_is_named_before_an_environment_is_made(small):
    shutil.copytree(
        ROOT / "sft" / "host" / "bootstrap",
        small / "sft" / "host" / "bootstrap",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    command = [sys.executable, "sft/host/bootstrap/__main__.py"]
    done = subprocess.run(command, cwd=small, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"{small}: you may not write there; clone it into a folder that you may write to\n"
