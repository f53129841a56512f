"""Which launcher is chosen and why, whose containers they are, and what NCCL's log says."""

import json
import os
from typing import get_args

import pytest

from sft import ROOT, hostfile, nccl
from sft.errors import SettingsError
from sft.host import ownership
from sft.host.doctor import container
from sft.host.gpus import Gpu
from sft.host.launch import compose_files, image
from sft.host.launch.decide import choose_device, where
from sft.host.launch.launcher import LAUNCHERS
from sft.host.launch.local import Local
from sft.host.launch.offer import Offer
from sft.settings import kinds, variables
from sft.settings.kinds import Launched
from sft.settings.load import load
from sft.settings.stages import resolve

CARD = Gpu(0, "NVIDIA GeForce RTX 4090", 0, 0.0, 24.0, 40, 50.0, "580.1")


def test_every_launcher_is_a_value_of_the_setting_and_knows_its_name():
    names = tuple(LAUNCHERS)
    assert set(get_args(kinds.Launcher)) == {"auto", *names} and set(get_args(Launched)) == set(names)
    assert names == tuple(kind().name for kind in LAUNCHERS.values())


def test_the_first_line_of_a_run_says_each_thing_once():
    settings = resolve(load(None, launcher="local", device="cpu", gpus_per_node=1), "cpu", "local")
    line = where(settings, Local(), "LAUNCHER=local", "DEVICE=cpu")
    assert line == "LAUNCHER=local: 2 nodes on this machine, 1 rank each, on cpu"
    line = where(settings, Local(), "no GPU", "no GPU")
    assert line == "launcher local (no GPU): 2 nodes on this machine, 1 rank each, on cpu" and len(line) < 80


def test_a_node_in_a_container_needs_its_own_gpus_only():
    settings = load(None)
    assert choose_device(settings, Offer([CARD, CARD], 2, where="in this container"), 2) == "cuda"
    with pytest.raises(SettingsError, match="GPUS_PER_NODE=2: 1 GPU is in this container; .*device_ids"):
        choose_device(settings, Offer([CARD], 2, where="in this container"), 2)
    with pytest.raises(SettingsError, match="COMPOSE_FILE=docker-compose.yml:docker/gpu.yml"):
        choose_device(settings, Offer([], 2, where="in this container"), 2)


def test_containers_of_root_are_those_of_who_called_sudo_or_of_sft_uid(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.delenv("SUDO_GID", raising=False)
    monkeypatch.delenv("SFT_UID", raising=False)
    monkeypatch.delenv("SFT_GID", raising=False)
    monkeypatch.chdir(tmp_path)
    assert ownership.owner() == (1000, 1000)
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "1235")
    assert ownership.owner() == (1234, 1235)
    monkeypatch.setenv("SUDO_UID", "0")
    assert ownership.owner() == (1000, 1000)
    monkeypatch.setenv("SFT_UID", "2345")
    assert ownership.owner() == (2345, 2345)
    monkeypatch.setenv("SFT_GID", "2346")
    assert ownership.owner() == (2345, 2346)
    for wrong in ("0", "root", "-1"):
        monkeypatch.setenv("SFT_UID", wrong)
        with pytest.raises(SettingsError, match=f"SFT_UID={wrong}: cannot be the user or group of containers"):
            ownership.owner()


def test_hostfile_and_settings_that_do_not_agree_are_named():
    hostfile.agree(2, 2, {"llm-master": 2, "llm-worker": 2})
    with pytest.raises(SettingsError) as caught:
        hostfile.agree(3, 1, {"llm-master": 2, "llm-worker": 2})
    nodes, slots = caught.value.problems
    assert nodes.startswith("NODES=3: the hostfile names 2 nodes, llm-master, llm-worker; ")
    assert slots.startswith("GPUS_PER_NODE=1: the hostfile says llm-master slots=2; ")


def test_env_file_may_hold_what_compose_reads(tmp_path):
    path = tmp_path / ".env"
    path.write_text("COMPOSE_FILE=docker-compose.yml:docker/gpu.yml\nSFT_UID=1234\nBASE_IMAGE=mine\nSEED=7\n")
    assert load(path).seed == 7
    assert not variables.is_of_compose("BATCHSIZE")


@pytest.mark.parametrize(
    ("log", "level", "found"),
    [
        ("a:1:2 [0] NCCL INFO Channel 00/0 : 1[1] -> 2[0] via SHM/direct/direct\n", "ok", "SHM/direct/direct"),
        ("NCCL INFO Channel 00/0 : 3[1] -> 0[0] via P2P/CUMEM\n", "ok", "P2P/CUMEM"),
        ("NCCL INFO Channel 00/0 : 1[1] -> 2[0] [send] via NET/Socket/0\n", "warning", "NET/Socket/0: slower"),
        ("NCCL INFO Channel 00/0 : 0[0] -> 1[1] via SHM/direct/direct\n", "warning", "does not say"),
    ],
)
def test_nccls_transport_between_the_nodes(log, level, found):
    check = container.transport(log, 2)
    assert check.level == level and found in check.found
    assert bool(check.remedy) == (level != "ok")


def combined(with_cards=("llm-master", "llm-worker"), **environment):
    """What `docker compose config` prints of two services; a variable without a value is null there."""
    devices = [{"driver": "nvidia", "device_ids": ["0"]}]
    cards = {"deploy": {"resources": {"reservations": {"devices": devices}}}}
    services = {name: {"environment": environment} for name in ("llm-master", "llm-worker")}
    return json.dumps(
        {"services": {name: one | (cards if name in with_cards else {}) for name, one in services.items()}}
    )


def test_compose_files_that_lack_what_nccl_needs_between_containers_are_named():
    needed = nccl.BETWEEN_CONTAINERS
    assert compose_files.without_nccl(combined(**needed)) == ""
    line = compose_files.without_nccl(combined(**needed | {"NCCL_P2P_DISABLE": None, "NCCL_NVLS_ENABLE": "1"}))
    assert line.startswith("llm-master and llm-worker lack NCCL_P2P_DISABLE=1 NCCL_NVLS_ENABLE=0, without which")
    assert compose_files.without_nccl(combined(with_cards=[])) == ""
    assert compose_files.without_nccl(combined(with_cards=["llm-master"])) == ""


def test_an_image_is_built_again_after_any_change_of_a_file_in_it(monkeypatch):
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [ROOT / line.removeprefix("!") for line in ignored if line.startswith("!")]
    files = {path for top in copied for path in ([top] if top.is_file() else top.rglob("*")) if path.is_file()}
    files = {path for path in files if "__pycache__" not in path.parts} | {ROOT / "docker" / "Dockerfile"}
    assert set(image.sources()) == files and ROOT / "sft/host/plan/cards.toml" in files
    before = image.content()
    monkeypatch.setenv("QLORA", "1")
    assert image.content() != before


def test_an_override_file_that_would_not_be_read_is_said(tmp_path):
    """Docker compose by hand reads it with no word of the user's; a task names the files, and then it does not."""
    assert compose_files.unread(tmp_path, ["docker-compose.yml"]) == []
    (tmp_path / "docker-compose.override.yml").touch()
    (line,) = compose_files.unread(tmp_path, ["docker-compose.yml", "docker/gpu.yml"])
    assert line.startswith("COMPOSE_FILE=docker-compose.yml:docker/gpu.yml: docker-compose.override.yml is here and ")
    assert line.endswith("add :docker-compose.override.yml, or remove it")
    name = "docker-compose.override.yml"
    for told in (name, f"./{name}", str(tmp_path / name)):
        assert compose_files.unread(tmp_path, ["docker-compose.yml", told]) == []
