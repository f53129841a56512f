"""How ranks meet, and how long they wait for each other."""

import socket
from datetime import timedelta

import deepspeed
import pytest
import torch
import torch.distributed as dist

from sft.errors import SettingsError
from sft.trainer import distributed


def test_a_port_that_was_taken_meanwhile_is_one_line(monkeypatch):
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = str(other.getsockname()[1])
        place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in place.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError, match=f"^MASTER_PORT={port}: has been taken .*; choose another port$"):
            distributed.start("cpu", timeout_s=10)


def test_collectives_wait_longer_than_ranks_wait_to_meet(tmp_path):
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1, timeout=timedelta(seconds=3)
    )
    try:
        groups = [dist.group.WORLD, dist.new_group([0])]
        distributed.wait_without_limit()
        for group in groups:
            assert group._get_backend(torch.device("cpu")).options._timeout == distributed.NO_LIMIT
    finally:
        dist.destroy_process_group()


def test_deepspeed_starts_without_trying_its_ops(monkeypatch):
    """On a machine with a GPU and no nvcc it would warn of each one that it could not build, in every rank."""
    monkeypatch.setattr(deepspeed.ops, "_probe_compatible_ops", lambda: pytest.fail("DeepSpeed tries its ops"))
    monkeypatch.delattr(deepspeed.ops, "__compatible_ops__", raising=False)
    monkeypatch.setattr(deepspeed, "init_distributed", lambda **_: None)
    monkeypatch.setattr(distributed, "wait_without_limit", lambda: None)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    distributed.start("cpu", timeout_s=10)
    assert deepspeed.ops.__compatible_ops__ == {"deepspeed_shm_comm": False}
