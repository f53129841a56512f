"""What a new user has after the first command can do everything that the README says needs no extra."""

import json
import re
import shutil
import subprocess
import tomllib

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from sft.host.commands.constraints import LEFT_OUT
from sft.run.directory import Run
from tests.e2e.project import ROOT, TIMEOUT_S, Hold, small

# One rank, because `make demo` has trained on two.
LORA = {
    "NODES": 1, "GLOBAL_BATCH_SIZE": 8, "LORA_RANK": 4, "LEARNING_RATE": 1e-2, "MAX_STEPS": 4, "EVALUATE": 1,
    "EVAL_LIMIT": 4, "MAX_NEW_TOKENS": 8,
}  # fmt: skip


def in_environment(project, code):
    """Return what a program in the copy's environment prints as JSON."""
    done = subprocess.run([f"{project.path}/.venv/bin/python", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def installed(project):
    """Return the version of each package in the copy's environment."""
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    return {canonicalize_name(name): version for name, version in in_environment(project, code).items()}


def test_the_first_command_ends_with_a_model_that_has_learnt(fresh):
    run = Run(fresh.path / "runs" / "demo")
    assert run.state().status == "finished", fresh.output
    assert json.loads(run.evaluation.read_text())["after"]["exact_match"] >= 0.9
    fresh.wait_for_no_process()


def test_the_environment_has_no_optional_package(fresh):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    optional = {re.split(r"[^\w-]", requirement)[0] for name in extras for requirement in extras[name]}
    optional -= {"sft", "pyyaml", "uv"}  # transformers requires pyyaml too, and uv may be what installed torch
    assert not optional & installed(fresh).keys()


def test_the_environment_has_the_versions_of_the_constraints(fresh):
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    versions = dict(line.split("==") for line in lines if not line.startswith("#"))
    others = {name: version for name, version in installed(fresh).items() if versions.get(name) != version}
    assert {name for name in others if not LEFT_OUT.fullmatch(name)} == {"sft", "pip"}


@pytest.mark.parametrize("ds_config", ["zero2", "zero3"])
def test_an_adapter_is_trained_exported_and_evaluated(fresh, ds_config):
    run = fresh.train(f"lora-{ds_config}", **LORA, DS_CONFIG=ds_config)
    assert (run.adapter / "adapter_model.safetensors").is_file() and (run.final / "model.safetensors").is_file()
    found = json.loads(run.evaluation.read_text())
    assert found["after"]["loss"] < found["before"]["loss"]
    fresh.wait_for_no_process()


def test_a_stopped_run_is_resumed_and_evaluated_again(fresh, tmp_path):
    run = Run(fresh.path / "runs" / "stopped")
    hold = Hold(tmp_path, step=4)
    process = fresh.start("train", **small(RUN_NAME=run.name, NODES=1), **hold.settings)
    hold.wait(process, run)
    hold.stop(fresh, process, run)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert run.state().status == "stopped" and run.state().step < 12, output
    run = fresh.train(run.name, NODES=1)
    assert [line.step for line in run.read_metrics() if "train/loss" in line.values] == list(range(1, 13))
    done = fresh.inv("evaluate", "--name", run.name, EVAL_LIMIT=4, MAX_NEW_TOKENS=8)
    assert done.returncode == 0, done.stdout
    assert json.loads(run.evaluation.read_text())["after"]["answers"] == 4
    fresh.wait_for_no_process()


@pytest.mark.parametrize("use_cache", [True, False])
def test_the_oldest_transformers_trains_exports_and_evaluates(oldest, use_cache):
    project, version = oldest
    found = in_environment(project, "import json, transformers as t; print(json.dumps(t.__version__))")
    assert Version(found) == Version(version)
    before = Run(project.path / "runs" / "demo")
    base = project.path / json.loads(before.prepared.read_text())["model"]
    folder = project.path / "models" / f"use-cache-{use_cache}"
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"use_cache": use_cache}))
    run = project.train(f"oldest-{use_cache}", MODEL_NAME=folder, **LORA | {"DS_CONFIG": "zero3"})
    found = json.loads(run.evaluation.read_text())
    assert found["after"]["loss"] < found["before"]["loss"] and found["after"]["answers"] == 4
    project.wait_for_no_process()
