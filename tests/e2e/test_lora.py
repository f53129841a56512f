"""LoRA: what two nodes train is what a plain loop over peft's model trains, and the merged model is base + adapter."""

import json

import peft
import pytest
import torch
import transformers

from .adapters import SAVED, SETTINGS, STEPS, base_of, goes_on, plain_losses
from .project import metrics, small


@pytest.fixture(scope="module")
def lora(project):
    return project.train("lora", **SETTINGS, SAVE_STEPS=SAVED)


def test_two_nodes_agree_with_a_plain_loop_over_peft(lora, project):
    path, rows = base_of(lora, project)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    found = metrics(lora, "step", "train/loss")
    assert len(found) == STEPS and found[-1][1] < found[0][1]
    for seen, wanted in zip(found, plain_losses(model, rows, lora.settings().seed), strict=True):
        assert seen == pytest.approx(wanted, rel=2e-5)


def test_the_final_model_is_base_and_adapter_and_loads_without_peft(lora, project):
    path, _ = base_of(lora, project)
    base = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        untouched = base(ids).logits
        adapted = peft.PeftModel.from_pretrained(base, str(lora.adapter))(ids).logits
        final = transformers.AutoModelForCausalLM.from_pretrained(lora.final, dtype=torch.float32)
        merged = final(ids).logits
    assert not list(lora.final.glob("adapter*")) and type(final).__module__.startswith("transformers.")
    assert not torch.allclose(adapted, untouched, atol=1e-2)
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ranks", [2, 1])
def test_a_checkpoint_holds_the_adapter_alone_and_the_run_goes_on_from_it(lora, project, ranks):
    goes_on(lora, project, ranks)


def test_it_is_evaluated(project, lora):
    run = project.train("lora-evaluated", **SETTINGS | {"NODES": 1, "MAX_STEPS": 2, "EVALUATE": 1, "EVAL_LIMIT": 4})
    found = json.loads(run.evaluation.read_text())
    assert found["after"]["loss"] < found["before"]["loss"]


def test_targets_that_the_model_does_not_have_are_one_line(project, lora):
    done = project.inv(
        "train", **small(RUN_NAME="lora-wrong", **SETTINGS | {"NODES": 1, "LORA_TARGETS": "q_proj,v_porj"})
    )
    assert done.returncode == 2
    assert (
        "LORA_TARGETS=q_proj,v_porj: v_porj is not a layer of this model; did you mean v_proj?"
        in done.stdout.splitlines()[-1]
    )
