"""A run on a disk that is full."""

import subprocess

import pytest

from sft import hostfile
from sft.run import lifecycle
from tests.settings import decided


def test_a_stop_is_asked_for_on_a_full_disk(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root: run the tests as root")
    try:
        run = lifecycle.create(decided(runs_path=small, run_name="a"), hostfile.hostfile(2, 2))
        with (small / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
            while filler.write(b"0" * 4096):
                pass
        run.request_stop("SIGTERM")
        assert run.stop_reason() == "SIGTERM"
    finally:
        subprocess.run(["umount", str(small)], check=True)
