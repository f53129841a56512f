"""A run can be repeated: the same settings and seed give the same bits on the CPU, and what differs is said."""

import json

import pytest

from sft.run.directory import Run

from .project import metrics

NAMES = ("step", "epoch", "train/loss", "train/grad_norm", "train/lr", "train/tokens", "val/loss")


@pytest.fixture(scope="module")
def base(on_ranks):
    return on_ranks(1)


def test_a_repeated_run_has_the_same_bits(project, base):
    done = project.inv("train", "--from", f"runs/{base.name}", RUN_NAME="again")
    assert done.returncode == 0, done.stdout
    assert f"repeating runs/{base.name}" in done.stdout and "differs" not in done.stdout
    again = Run(project.path / "runs" / "again")
    assert again.settings() == base.settings().model_copy(
        update={"run_name": "again", "fresh": True, "master_port": again.settings().master_port}
    )
    assert metrics(again, *NAMES) == metrics(base, *NAMES) and len(metrics(again, *NAMES)) == 12
    ours, theirs = (run.final / "model.safetensors" for run in (again, base))
    assert ours.read_bytes() == theirs.read_bytes()


def test_what_a_run_was_made_of_is_recorded(base):
    noted = json.loads(base.environment.read_text())
    assert noted["commit"] is None  # this copy of the project is no repository
    assert noted["command"].startswith("inv train")
    assert {"torch", "transformers", "deepspeed"} <= set(noted["packages"])
    assert noted["machine"]["cores"] >= 1 and noted["machine"]["memory_gib"] > 0 and noted["machine"]["gpus"] == []
    assert len(noted["inputs"]["data_hash"]) == len(noted["inputs"]["model_hash"]) == 16


def test_a_repeated_run_takes_overrides_and_says_what_differs(project, base):
    noted = json.loads(base.environment.read_text())
    noted["packages"]["torch"], noted["inputs"]["data_hash"] = "2.0.0", "another"
    earlier = Run(project.path / "runs" / "earlier")
    earlier.path.mkdir()
    earlier.settings_file.write_text(base.settings_file.read_text())
    earlier.environment.write_text(json.dumps(noted))
    done = project.inv("train", "--from", "earlier", RUN_NAME="other-seed", SEED=43, MAX_STEPS=2)
    assert done.returncode == 0, done.stdout
    other = Run(project.path / "runs" / "other-seed")
    assert (other.settings().seed, other.settings().max_steps, other.settings().weight_decay) == (43, 2, 0.1)
    assert "differs: SEED was 42, is 43" in done.stdout and "differs: MAX_STEPS was 12, is 2" in done.stdout
    assert "differs: packages.torch was 2.0.0, is " in done.stdout
    assert "differs: inputs.data_hash was another, is " in done.stdout
    assert metrics(other, "train/loss")[0] != metrics(base, "train/loss")[0]


def test_a_run_that_is_not_there_cannot_be_repeated(project):
    done = project.inv("train", "--from", "runs/nothing")
    assert done.returncode == 2
    assert "runs/nothing: no such run" in done.stdout and "Traceback" not in done.stdout
