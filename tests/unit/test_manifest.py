"""Manifests: what they say of a run's settings, and what they never say."""

import pytest
import yaml

from sft.errors import UserError
from sft.host.launch.manifest import render
from sft.settings.load import load

KEY = "not-a-real-key-0123456789abcdef0123456789"


def made(kind, gpu="H100", **settings):
    text = render.rendered(load(None, **settings), kind, "registry/sft:1", "shared", gpu)
    return text, yaml.safe_load(text)


def environment(job):
    return {one["name"]: one.get("value") for one in job["spec"]["trainer"]["env"]}


def test_a_trainjob_starts_the_node_program_on_every_node():
    text, job = made(
        "kubernetes", nodes=3, gpus_per_node=8, run_name="My.Run", lora_rank=16, system_prompt='say "b": c'
    )
    trainer = job["spec"]["trainer"]
    assert "never run" in text and job["metadata"]["name"] == "my-run"
    assert (trainer["numNodes"], trainer["image"]) == (3, "registry/sft:1")
    assert trainer["resourcesPerNode"] == {"limits": {"nvidia.com/gpu": "8"}}
    assert environment(job) == {
        "LAUNCHER": "hosts", "NODES": "3", "GPUS_PER_NODE": "8", "RUN_NAME": "My.Run", "LORA_RANK": "16",
        "SYSTEM_PROMPT": 'say "b": c',
    }  # fmt: skip


def test_a_task_for_skypilot_trains_on_every_node():
    text, task = made("skypilot", nodes=2, gpus_per_node=4, evaluate=False)
    assert "never run" in text and task["num_nodes"] == 2 and task["resources"] == {"accelerators": "H100:4"}
    assert task["run"] == "exec make train" and task["volumes"] == {"/sft": "shared"}
    assert task["envs"] == {
        "LAUNCHER": "hosts", "NODES": "2", "GPUS_PER_NODE": "4", "EVALUATE": "0",
        "DATA_PATH": "/sft/data", "MODEL_PATH": "/sft/models", "RUNS_PATH": "/sft/runs",
    }  # fmt: skip


@pytest.mark.parametrize("kind", render.KINDS)
def test_keys_are_named_and_never_written(kind):
    text, found = made(kind, wandb_api_key=KEY)
    assert KEY not in text and "WANDB_API_KEY" in text and "HUGGINGFACE_API_KEY" not in text
    if kind == "skypilot":
        assert found["secrets"] == {"WANDB_API_KEY": None}


@pytest.mark.parametrize("kind", render.KINDS)
def test_a_run_on_cpus_asks_for_no_gpu(kind):
    assert "nvidia.com/gpu" not in made(kind, gpu="", device="cpu")[0]
    assert "accelerators" not in made(kind, gpu="", device="cpu")[0]


@pytest.mark.parametrize(
    ("kind", "gpu", "settings", "message"),
    [
        ("nomad", "", {}, "KIND=nomad: is not a manifest; use kubernetes or skypilot"),
        ("skypilot", "", {}, "GPU=: is empty"),
        ("kubernetes", "", {"hosts": "a,b"}, "HOSTS=a,b: a scheduler chooses the hosts"),
    ],
)
def test_what_cannot_be_rendered_is_refused(kind, gpu, settings, message):
    with pytest.raises(UserError, match=message):
        made(kind, gpu, **settings)
