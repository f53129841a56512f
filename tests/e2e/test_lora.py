"""LoRA: what two nodes train is what a plain loop over peft's model trains, and the merged model is base + adapter."""

import json

import peft
import pytest
import torch
import transformers

from sft.trainer import batching
from sft.trainer.data import Rows

from .project import metrics, small

STEPS = 8
SETTINGS = {
    "LORA_RANK": 4, "LORA_ALPHA": 8, "GLOBAL_BATCH_SIZE": 8, "BATCH_SIZE": 2, "WARMUP_RATIO": 0, "MAX_STEPS": STEPS,
    "LR_SCHEDULER": "constant", "LEARNING_RATE": 1e-2,
}  # fmt: skip


@pytest.fixture(scope="module")
def lora(project):
    return project.train("lora", **SETTINGS)


def base_of(run, project):
    prepared = json.loads(run.prepared.read_text())
    return project.path / prepared["model"], Rows(project.path / prepared["data"] / "train")


def plain_losses(run, project):
    path, rows = base_of(run, project)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    torch.manual_seed(run.settings().seed)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
    found = []
    for step in range(STEPS):
        chosen = batching.rows_of_step(step, len(rows), 8, run.settings().seed)
        loss_sum, targets = 0.0, rows.target_tokens(chosen)
        for ids, is_target in rows.take(chosen):
            tokens = torch.from_numpy(ids.copy()).long()[None]
            labels = torch.where(torch.from_numpy(is_target.copy()), tokens, -100)
            loss = model(input_ids=tokens, labels=labels).loss * int(is_target[1:].sum()) / targets
            loss.backward()
            loss_sum += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append([step + 1, loss_sum])
    return found


def test_two_nodes_agree_with_a_plain_loop_over_peft(lora, project):
    found = metrics(lora, "step", "train/loss")
    assert len(found) == STEPS and found[-1][1] < found[0][1]
    for seen, wanted in zip(found, plain_losses(lora, project), strict=True):
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


def test_it_is_evaluated(project, lora):
    run = project.train("lora-evaluated", **SETTINGS | {"MAX_STEPS": 2, "EVALUATE": 1, "EVAL_LIMIT": 4})
    found = json.loads(run.evaluation.read_text())
    assert found["after"]["loss"] < found["before"]["loss"]


def test_targets_that_the_model_does_not_have_are_one_line(project, lora):
    done = project.inv("train", **small(RUN_NAME="lora-wrong", **SETTINGS | {"LORA_TARGETS": "no_such_layer"}))
    assert done.returncode == 1
    assert "LORA_TARGETS=no_such_layer: does not fit this model" in done.stdout.splitlines()[-1]
