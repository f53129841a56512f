"""Manifests against the published descriptions of what Kubeflow's Trainer and SkyPilot take."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import pytest
import yaml

from sft.host.launch.manifest import render
from sft.settings.load import load
from tests.e2e.project import Project
from tests.pages import words_of

PUBLISHED = ("kubeflow-trainer-api==2.3.0", "skypilot==0.14.1")
GIVEN = {"run_name": "a", "nodes": 2, "gpus_per_node": 4, "lora_rank": 16, "wandb_api_key": "not-a-real-key-0123456789"}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages that describe manifests, installed into a folder of their own."""
    folder = tmp_path_factory.mktemp("published")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder)]
    for words in (["--no-deps", *PUBLISHED], ["jsonschema"]):
        done = subprocess.run([*pip, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip("pip cannot download packages here; connect to a package index")
    return folder


@pytest.fixture
def imported(published: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.syspath_prepend(str(published))
    return monkeypatch


def manifest(kind: str) -> dict[str, object]:
    found = yaml.safe_load(render.rendered(load(None, **GIVEN), kind, "registry/sft:1", "shared", "H100"))
    assert isinstance(found, dict)
    return found


def test_the_commands_of_the_page_print_what_both_take(tmp_path):
    project = Project(tmp_path)
    for kind, key, value in (("kubernetes", "kind", "TrainJob"), ("skypilot", "num_nodes", 2)):
        process = project.start(*words_of("docs/clusters.md", f"make -s manifest KIND={kind}"), LAUNCHER="auto")
        said, _ = process.communicate(timeout=100)
        assert process.returncode == 0 and yaml.safe_load(said)[key] == value, said


def test_kubeflows_own_types_read_all_of_a_trainjob(imported):
    models = importlib.import_module("kubeflow_trainer_api.models.trainer_v1alpha1_train_job")
    job = manifest("kubernetes")
    # An unknown key is left out when it is read: what is written again has to be everything.
    assert models.TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job


def test_skypilots_own_schema_takes_a_task(published, imported):
    jsonschema = importlib.import_module("jsonschema")
    schemas = schemas_of(published, imported)
    task = manifest("skypilot")
    jsonschema.validate(task, schemas.get_task_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(task | {"nodes": 2}, schemas.get_task_schema())


def schemas_of(published: Path, patch: pytest.MonkeyPatch) -> ModuleType:
    """Return SkyPilot's schemas without the rest of it, which needs many packages."""
    for name in ("sky", "sky.skylet", "sky.utils"):
        patch.setitem(sys.modules, name, MagicMock(__path__=[]))
    path = published / "sky" / "utils" / "schemas.py"
    spec = importlib.util.spec_from_file_location("skypilot_schemas", path)
    assert spec and spec.loader
    schemas = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(schemas)
    patch.setattr(schemas, "_task_config_schema", dict)  # of a part that the task does not have
    patch.setattr(schemas, "get_volume_mount_schema", dict)
    return schemas
