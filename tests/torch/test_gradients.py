"""No gradient is lost in silence: the dry run names every trained weight whose gradient DeepSpeed does not keep."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sft.errors import UserError
from sft.settings.load import load
from sft.trainer import gradients
from tests.e2e.project import free_port

from .lost_gradients import LAYERS, STAGES

ROOT = Path(__file__).resolve().parents[2]
RANKS = 2


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """What two ranks find, by case."""
    folder = tmp_path_factory.mktemp("gradients")
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(RANKS)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.torch.lost_gradients", str(folder)],
            cwd=ROOT,
            env=os.environ
            | shared
            | {"RANK": rank, "LOCAL_RANK": rank, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in map(str, range(RANKS))
    ]
    outputs = [rank.communicate(timeout=600)[0] for rank in ranks]
    assert not any(rank.returncode for rank in ranks), "\n".join(outputs)
    found = [json.loads(line) for line in outputs[0].splitlines() if line.startswith('{"case"')]
    return {case["case"]: case for case in found}


@pytest.mark.parametrize("stage", STAGES)
def test_gradients_that_are_kept_are_not_called_lost(cases, stage):
    assert cases[stage]["lost"] == cases[stage]["without"] == cases[stage]["reasons"] == []


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "ZeRO-1"])
def test_weights_whose_gradients_are_not_taken_over_are_named(cases, stage):
    lost = cases[f"{stage}, hook gone"]["lost"]
    if "ZeRO-3" in stage:
        assert {name.split(".layers.")[1][0] for name in lost} == {"1"}
        assert len(lost) == (14 if "LoRA" in stage else 9)
    else:
        assert lost == ["model.model.layers.0.self_attn." + ("k_proj.lora_B.default" if "LoRA" in stage else "v_proj")
                        + ".weight"]  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_that_cannot_be_gathered_whole_are_found_and_in_parts_they_train_as_plain_pytorch_does(cases, kind):
    words = {"a dataclass": "an Output", "by keyword": "takes its input by keyword", "called twice": "more than once"}
    assert [words.get(kind, kind) in reason for reason in cases[f"{kind}, whole"]["reasons"]] == [True]
    parts = cases[f"{kind}, in parts"]
    assert parts["reasons"] == parts["lost"] == parts["without"] == []
    assert parts["norm"] == pytest.approx(parts["plain"], rel=2e-5)


def test_a_layer_that_returns_a_list_loses_every_gradient_if_it_is_gathered_whole(cases):
    lost = cases["a list, whole"]["lost"]
    assert len(lost) == 2 * 9 and all(".layers." in name for name in lost)


def test_a_weight_that_the_loss_does_not_depend_on_is_told_apart():
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(2, 1), "head": torch.nn.Linear(2, 1)})
    model["head"].weight.requires_grad_(False)
    with gradients.Watch(model) as watch:
        model["used"](torch.ones(1, 2)).backward()
    assert {name: len(norms) for name, norms in watch.norms.items()} == {
        "used.weight": 1, "used.bias": 1, "head.bias": 0,
    }  # fmt: skip


def test_a_model_that_loses_gradients_in_every_way_is_refused_in_one_line():
    settings = load(None, model_name="tiny")
    error = gradients.refused(gradients.Found([f"model.layers.{i}.w" for i in range(4)], []), settings)
    assert isinstance(error, UserError)
    assert str(error) == (
        "MODEL_NAME=tiny: DeepSpeed does not keep the gradients of 4 weights (layers.0.w, layers.1.w, layers.2.w, …), "
        "so they would be trained wrongly; use another model or DS_CONFIG=zero2"
    )
