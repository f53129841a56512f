"""Four ranks in two containers, by the tasks and by hand: the same result as the local launcher, safely."""

import json
import os

import pytest
import transformers

from sft.host import ownership
from sft.run.directory import Run
from tests.e2e.project import Project, metrics, small, wait_until

from .stack import IMAGE, NODES, wait_for

SECRET = "hf_" + "s3cr3t" * 6
SETTINGS = {
    "GPUS_PER_NODE": 2, "MAX_STEPS": 12, "SAVE_STEPS": 5, "EVALUATE": 1, "EVAL_LIMIT": 8, "MAX_NEW_TOKENS": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(stack):
    """A finished run by `inv train`; what docker said of the containers while they were running; the output."""
    # A DS_CONFIG that only the host sees, with what zero3 says.
    (stack.path / "mine.json").write_bytes((stack.path / "ds_configs" / "zero3.json").read_bytes())
    own = {"RUN_NAME": "tasks", "HUGGINGFACE_API_KEY": SECRET, "DS_CONFIG": "mine.json"}
    run, process = stack.start_training(**small(**own, **SETTINGS))
    wait_until(lambda: len(run.nodes()) == 2, process, run)  # their ranks are still to come
    seen = {node: stack.inspect(node) for node in NODES}
    for node in NODES:
        seen[node]["Status"] = stack.docker("compose", "exec", "-T", node, "cat", "/proc/1/status")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return run, seen, output


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The same run by the local launcher, as one rank."""
    one = {"NODES": 1, "GPUS_PER_NODE": 1, "GLOBAL_BATCH_SIZE": 16, "EVALUATE": 0}
    return Project(tmp_path_factory.mktemp("local")).train("local", **SETTINGS | one)


def steps(run):
    """Return what the steps of a run were, without its evaluations."""
    return [line for line in metrics(run, "train/loss", "train/grad_norm") if line[0] is not None]


def test_a_deepspeed_file_outside_of_the_containers_is_used(finished):
    run, _, _ = finished
    assert run.settings().ds_config == "mine.json"
    assert json.loads(run.ds_config.read_text())["zero_optimization"]["stage"] == 3


def test_it_finishes_in_both_containers(finished, stack):
    run, _, output = finished
    assert run.state().status == "finished"
    assert stack.exit_codes() == [0, 0]
    assert "LAUNCHER=compose: 2 nodes in containers" in output
    assert set(json.loads(run.evaluation.read_text())) >= {"before", "after"}


def test_the_model_loads_here(finished):
    run, _, _ = finished
    assert transformers.AutoModelForCausalLM.from_pretrained(run.final).num_parameters() > 100_000
    assert transformers.AutoTokenizer.from_pretrained(run.final).eos_token


def test_the_losses_are_those_of_the_local_launcher(finished, local):
    run, _, _ = finished
    ours, theirs = steps(run), steps(local)
    assert len(ours) == 12
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-5)


def test_each_container_shows_its_own_lines(finished, stack):
    master, worker = (stack.docker("compose", "logs", "--no-color", node) for node in NODES)
    assert "rank 0: done" in master and "rank 1: done" in master and "rank 2: done" not in master
    assert "rank 2: done" in worker and "rank 3: done" in worker and "rank 0: done" not in worker


def test_the_containers_have_no_privilege(finished, stack):
    _, seen, _ = finished
    for node in NODES:
        config, host = seen[node]["Config"], seen[node]["HostConfig"]
        status = dict(line.split(":", 1) for line in seen[node]["Status"].splitlines())
        assert config["User"] == f"{stack.uid}:{stack.uid}" and stack.uid != 0
        assert set(status["Uid"].split()) == {str(stack.uid)}
        assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")} == {0}
        assert status["NoNewPrivs"].strip() == "1"
        assert not host["Privileged"] and host["ReadonlyRootfs"] and not host["CapAdd"]
        assert not host["PortBindings"] and not any((seen[node]["NetworkSettings"]["Ports"] or {}).values())
        assert host["NetworkMode"].endswith("_nodes") and host["PidMode"] == ""
        assert host["RestartPolicy"]["Name"] == "no"
        assert {mount["Destination"] for mount in seen[node]["Mounts"]} == {
            "/app/runs", "/app/data", "/app/models", "/app/.env",
        }  # fmt: skip


def test_no_secret_is_in_image_logs_or_run_directory(finished, stack):
    run, _, output = finished
    told = [output, stack.docker("inspect", IMAGE), stack.docker("history", "--no-trunc", IMAGE)]
    told += [stack.docker("compose", "logs", node) for node in NODES]
    assert not [text for text in told if SECRET in text]
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert len(files) > 10 and not [path for path in files if SECRET.encode() in path.read_bytes()]
    inside = stack.docker("run", "--rm", IMAGE, "find", "/app", "-name", "*.py", "-o", "-name", ".env", "-size", "+0")
    assert "/app/sft/run/directory.py" in inside and "/app/.env" not in inside.split()


def test_the_files_are_the_users(finished, stack):
    for folder in ("runs", "data", "models"):
        paths = [stack.path / folder, *(stack.path / folder).rglob("*")]
        assert len(paths) > 3
        assert {path.lstat().st_uid for path in paths} == {stack.uid}


def test_by_hand_it_is_the_same(finished, stack, monkeypatch):
    run, _, _ = finished
    stack.env_file(**small(**SETTINGS | {"EVALUATE": 0}))
    by_hand = stack.compose(monkeypatch)
    by_hand.start()

    def containers():
        return by_hand.get_containers(include_all=True)

    wait_for(lambda: {found.State for found in containers()} == {"exited"}, 600, every_s=1)
    assert {found.Service: found.ExitCode for found in containers()} == {"llm-master": 0, "llm-worker": 0}
    second = Run(stack.path / "runs" / os.readlink(stack.path / "runs" / "latest"))
    assert second.path != run.path and second.state().status == "finished"
    assert steps(second) == steps(run)
    assert (second.final / "model.safetensors").read_bytes() == (run.final / "model.safetensors").read_bytes()
    assert {path.lstat().st_uid for path in second.path.rglob("*")} == {ownership.owner()[0]}
