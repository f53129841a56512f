"""`make train` with its default model and data set from nothing: a gated model and GSM8K on the tests' hub.

It is interrupted while it downloads and while it trains, and goes on to a finished model without the hub.
"""

from __future__ import annotations

import json
import os
import signal
import stat

import pytest

from sft.run.directory import Run
from tests.hub import content
from tests.hub.content import DATASET, MODEL, OTHER_TOKEN, TOKEN, WRONG_TOKEN
from tests.hub.server import Fault, running

from .project import Hold, Project, wait_until

pytestmark = pytest.mark.real

LIMITS = {
    "DEVICE": "cpu", "NODES": 2, "GPUS_PER_NODE": 1, "MAX_STEPS": 120, "SAVE_STEPS": 0, "EVAL_LIMIT": 4,
    "MAX_NEW_TOKENS": 4, "WANDB_MODE": "disabled", "RUN_NAME": "defaults", "MAX_EPOCHS": 20, "LEARNING_RATE": 1e-3,
}  # fmt: skip
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def hub(tiny):
    with running() as found:
        found.users |= {TOKEN, OTHER_TOKEN}
        found.add("models", MODEL, content.files_in(tiny), gated=True, readers={TOKEN})
        found.add("datasets", DATASET, content.with_configs("main", "socratic", train=60))
        yield found


@pytest.fixture(scope="module")
def fresh(hub, tmp_path_factory):
    """A copy of the project, as it is before the first command."""
    return Project(tmp_path_factory.mktemp("hub-path"))


def make(fresh, hub, token=TOKEN, **settings):
    """Start `make train` as a user who has the key in the environment."""
    key = {"HUGGINGFACE_API_KEY": token} if token else {}
    return fresh.start(
        "make", "train", **LIMITS, **key, **settings, HF_ENDPOINT=hub.endpoint, HF_HOME=fresh.path / "huggingface"
    )


def end(process):
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


@pytest.mark.parametrize(
    ("token", "line"),
    [
        (None, f"MODEL_NAME={MODEL}: is gated; ask for access on its page, and set HUGGINGFACE_API_KEY"),
        (OTHER_TOKEN, f"MODEL_NAME={MODEL}: is gated; ask for access on its page, with the account of"),
        (WRONG_TOKEN, "HUGGINGFACE_API_KEY=***: is not a token that the hub knows; make one"),
    ],
)
def test_without_access_a_line_says_so_and_nothing_is_left(fresh, hub, token, line):
    code, output = end(make(fresh, hub, token=token))
    assert line in output and "Traceback" not in output
    assert code == 2 and not (fresh.path / "runs" / "defaults").exists(), output


def test_from_nothing_interrupted_twice_and_finished_without_the_hub(fresh, hub, tmp_path):
    run, hold = Run(fresh.path / "runs" / "defaults"), Hold(tmp_path, step=3)
    hub.faults.append(Fault("blobs", bytes_per_s=50_000))
    downloading = make(fresh, hub)
    wait_until(lambda: any("/blobs/" in request.path for request in hub.requests), downloading, run)
    os.killpg(downloading.pid, signal.SIGINT)  # Ctrl-C in a terminal
    code, output = end(downloading)
    assert code, output
    fresh.wait_for_no_process()
    hub.faults.clear()

    training = make(fresh, hub, **hold.settings)
    hold.wait(training, run)
    hold.stop(fresh, training, run)
    code, output = end(training)
    assert run.state().status == "stopped", output
    hub.stop()

    code, output = end(make(fresh, hub))
    assert code == 0 and run.state().status == "finished", output
    steps = [line.step for line in run.read_metrics() if "train/loss" in line.values]
    assert steps == list(range(1, 121))
    prepared = json.loads(run.prepared.read_text())
    assert prepared["inputs"]["dataset_commit"] == hub.repositories["datasets", DATASET].commit_of("main")
    assert prepared["inputs"]["model_commit"] == hub.repositories["models", MODEL].commit_of("main")
    assert prepared["splits"]["train"] == ["main/train-00000-of-00001.parquet"]
    assert (
        json.loads(run.evaluation.read_text())["after"]["loss"]
        < json.loads(run.evaluation.read_text())["before"]["loss"]
    )
    for name in ("main/train-00000-of-00001.parquet", "main/test-00000-of-00001.parquet"):
        assert len(hub.downloads(name)) == 1
    assert len(hub.downloads(WEIGHTS)) == 2, "once in vain"
    assert not hub.downloads("socratic/train-00000-of-00001.parquet")


def test_the_key_is_in_no_file(fresh):
    kept = [path for path in fresh.path.rglob("*") if stat.S_ISREG(path.lstat().st_mode) and ".venv" not in path.parts]
    assert kept and not [path for path in kept if TOKEN.encode() in path.read_bytes()]
