"""`make setup`, `make test-env`, and that settings, hostfile and compose files agree or are named."""

import json

import pytest
import yaml

from sft.errors import SettingsError
from sft.host.launch import compose, compose_files
from sft.settings.load import load
from tests.e2e.project import ROOT, small, wait_until

from .stack import IMAGE, NODES

SETTINGS = small(GPUS_PER_NODE=1)


def test_setup_builds_and_test_env_checks_both_nodes(stack):
    done = stack.inv("setup", **SETTINGS)
    assert done.returncode == 0, done.stdout
    assert "ok  docker: Engine" in done.stdout and "ok  compose files: they agree" in done.stdout
    assert "getting demo and tiny" in done.stdout
    again = stack.inv("setup", **SETTINGS)
    assert again.returncode == 0 and f"building the image {IMAGE}" not in again.stdout
    checked = stack.inv("test-env", **SETTINGS)
    assert checked.returncode == 0, checked.stdout
    assert "ok  llm-master: all-reduce: 2 ranks of 2 nodes on cpu over gloo" in checked.stdout
    for node in NODES:
        for check in ("packages", "torch", "/dev/shm", "runs/", "data/", "models/", "port"):
            assert f"ok  {node}: {check}: " in checked.stdout, checked.stdout
    assert not stack.docker("ps", "--all", "-q", "--filter", f"label=com.docker.compose.project={stack.name}-check")


@pytest.mark.parametrize("files", [("docker-compose.yml",), ("docker-compose.yml", "docker/gpu.yml")])
def test_the_compose_files_are_valid(stack, files):
    named = [word for file in files for word in ("-f", file)]
    config = stack.docker("compose", *named, "config", "--format", "json")
    services = json.loads(config)["services"]
    assert list(services) == list(NODES)
    given = [["0", "1"], ["2", "3"]] if "docker/gpu.yml" in files else [[], []]
    assert compose_files.device_ids(config) == dict(zip(NODES, given, strict=True))
    for service in services.values():
        assert not service.get("privileged") and not service.get("ports") and service["cap_drop"] == ["ALL"]
    if "docker/gpu.yml" in files:
        master, worker = (services[node] for node in NODES)
        assert (master["ipc"], worker["ipc"]) == ("shareable", "service:llm-master")
        assert int(master["shm_size"]) == 16 * 2**30
        for name in ("NCCL_HOSTID", "NCCL_CUMEM_HOST_ENABLE", "DEVICE"):
            assert master["environment"][name] == worker["environment"][name]
        # A container has neither the other's cards nor its sockets, over which NCCL would hand memory on.
        assert compose_files.without_nccl(config) == ""
        assert master["user"] == worker["user"]


def test_the_gpu_overlay_shares_memory_between_the_nodes(stack):
    """The overlay as it is, without the cards and the limits that a machine without them cannot give."""
    overlay = yaml.safe_load((ROOT / "docker" / "gpu.yml").read_text())
    for service in overlay["services"].values():
        del service["deploy"], service["ulimits"]
        service["environment"]["DEVICE"] = "cpu"
    (stack.path / "docker" / "shared.yml").write_text(yaml.safe_dump(overlay))
    settings = SETTINGS | {"COMPOSE_FILE": "docker-compose.yml:docker/shared.yml"}
    assert stack.inv("setup", **settings).returncode == 0
    checked = stack.inv("test-env", **settings)
    assert checked.returncode == 0, checked.stdout
    for node in NODES:
        assert f"ok  {node}: /dev/shm: 17.2 GB" in checked.stdout


def problems(stack, monkeypatch, **settings):
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(stack.path)
    with pytest.raises(SettingsError) as caught:
        compose.Stack(load(None, **settings)).check()
    return caught.value.problems


def test_what_does_not_agree_is_named(stack, monkeypatch, tmp_path):
    lines = problems(stack, monkeypatch, device="cuda", gpus_per_node=1)
    assert lines[0] == (
        "GPUS_PER_NODE=1: the compose files give llm-master the device_ids 0, 1; "
        "make GPUS_PER_NODE and the device_ids in docker/gpu.yml agree"
    )
    assert len(lines) == 2 and "llm-worker the device_ids 2, 3" in lines[1]
    assert problems(stack, monkeypatch, nodes=3) == [
        "NODES=3: docker-compose.yml has 2 nodes; set NODES=2, or LAUNCHER=local"
    ]
    overlay = yaml.safe_load((ROOT / "docker" / "gpu.yml").read_text())
    devices = overlay["services"]["llm-worker"]["deploy"]["resources"]["reservations"]["devices"]
    devices[0]["device_ids"] = ["1", "2"]
    (tmp_path / "mine.yml").write_text(yaml.safe_dump(overlay))
    monkeypatch.setattr(stack, "more", stack.more | {"COMPOSE_FILE": f"docker-compose.yml:{tmp_path}/mine.yml"})
    (line,) = problems(stack, monkeypatch, device="cuda")
    assert line.startswith("device_ids=0,1,1,2: the GPUs 1 are given to both llm-master and llm-worker")


def test_local_files_that_containers_do_not_see_are_named(stack, monkeypatch, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("")
    (line,) = problems(stack, monkeypatch, dataset=str(rows))
    assert line.startswith(f"DATASET={rows}: is outside the folders that containers see; move it into data/ or models/")


def test_a_hostfile_of_other_settings_is_named(stack):
    """The node program refuses it, under every launcher; the pipeline shows its line."""
    done = stack.inv("train", **small(RUN_NAME="other", MAX_STEPS=1, SAVE_STEPS=1))
    assert done.returncode == 0, done.stdout
    run = stack.path / "runs" / "other"
    stack.write(f"runs/{run.name}/hostfile", "llm-master slots=3\nllm-worker slots=3\n")
    done = stack.inv("evaluate", "--name", "other", **small(EVAL_LIMIT=2))
    assert done.returncode == 2
    assert "GPUS_PER_NODE=1: the hostfile says llm-master slots=3; set GPUS_PER_NODE=3" in done.stdout


def test_two_runs_do_not_share_the_containers(stack):
    run, process = stack.start_training(**small(RUN_NAME="one", MAX_STEPS=0, MAX_EPOCHS=1000))
    wait_until(run.is_running, process, run)
    second = stack.inv("train", **small(RUN_NAME="two"))
    assert second.returncode == 2 and "containers of this project are already running" in second.stdout
    assert not (stack.path / "runs" / "two").exists()
    assert stack.inv("stop", "--name", "one").returncode == 0
    process.communicate(timeout=60)
    assert run.state().status == "stopped"


def test_of_two_runs_that_start_at_once_one_gets_the_containers(stack):
    named = {"MAX_STEPS": 2, "SAVE_STEPS": 0, "EVAL_LIMIT": 2}
    both = [stack.start("train", **small(RUN_NAME=name, **named)) for name in ("left", "right")]
    said = [process.communicate(timeout=300)[0] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2], said
    refusal = said[codes.index(2)]
    assert "of this project are already running" in refusal or "about to start the containers" in refusal
    refused = ("left", "right")[codes.index(2)]
    assert not (stack.path / "runs" / refused).exists()
