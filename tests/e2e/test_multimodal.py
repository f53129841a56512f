"""A multimodal checkpoint on two nodes: trained as plain PyTorch trains it, its tower kept, exported as its class."""

import json

import peft
import pytest
import torch
import transformers

from sft.trainer.model import published, towers

from ..torch.small_models import names_in, with_pictures
from ..zoo import tiny as zoo
from .conftest import RANKS, STEPS
from .project import CURVE, metrics, small, stopped
from .test_same_result import plain_pytorch

SAVED = 6
ADAPTER = {"LORA_RANK": 4, "LEARNING_RATE": 1e-2, "MAX_STEPS": 4, "EVALUATE": 1, "EVAL_LIMIT": 4, "MAX_NEW_TOKENS": 4}


@pytest.fixture(scope="module")
def vision(tokenizer, tmp_path_factory):
    """A folder with a small Qwen3-VL as it is published, its positions with three axes."""
    folder = tmp_path_factory.mktemp("vision")
    torch.manual_seed(0)
    config = zoo.config_of("qwen3_vl")
    config.text_config.vocab_size = len(tokenizer)
    published.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"patch_size": 16}')
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": tokenizer.chat_template}))
    return folder


@pytest.fixture(scope="module")
def run(project, vision):
    return project.train("multimodal", MODEL_NAME=vision, SAVE_STEPS=SAVED, **STEPS, **RANKS[2])


def test_it_is_trained_as_plain_pytorch_trains_it(run, project):
    assert "packed rows" in run.log_files()[0].read_text()
    found = metrics(run, "step", "train/loss", "train/grad_norm")
    assert len(found) == 12
    for seen, wanted in zip(found, plain_pytorch(run, project), strict=True):
        assert seen == pytest.approx(wanted, rel=2e-5)


def test_the_tower_is_kept_to_the_bit_and_the_class_is_the_same(run, vision):
    assert "Qwen3VLForConditionalGeneration: text does not pass visual: " in run.log_files()[0].read_text()
    names = [json.loads((folder / "config.json").read_text())["architectures"] for folder in (vision, run.final)]
    assert names[0] == names[1] == ["Qwen3VLForConditionalGeneration"]
    before, after = (
        transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        for folder in (vision, run.final)
    )
    frozen, old, new = set(towers.unused(before)), before.state_dict(), after.state_dict()
    assert len(frozen) > 50
    assert {name for name in old if torch.equal(old[name], new[name])} == frozen
    assert (run.final / "preprocessor_config.json").read_text() == '{"patch_size": 16}'
    template = json.loads((run.final / "chat_template.json").read_text())["chat_template"]
    assert template == transformers.AutoTokenizer.from_pretrained(run.final).chat_template


@pytest.mark.parametrize("inside", ["", "vision_model."])
def test_the_weights_have_the_names_that_the_base_has(project, tokenizer, tmp_path, inside):
    with_pictures(tmp_path, tokenizer, inside)
    run = project.train(f"named{len(inside)}", MODEL_NAME=tmp_path, NODES=1, MAX_STEPS=1)
    assert json.loads(run.ds_config.read_text())["zero_optimization"]["stage"] == 3
    assert names_in(run.final) == names_in(tmp_path)


def test_it_goes_on_from_a_checkpoint_on_another_number_of_ranks(run, project, vision):
    other = stopped(run, "multimodal-on-1", SAVED)
    size = sum(path.stat().st_size for path in (other.checkpoints / f"step-{SAVED:06d}").iterdir())
    assert size < (run.final / "model.safetensors").stat().st_size / 2  # the tower is not in it
    done = project.inv("train", **small(RUN_NAME=other.name, MODEL_NAME=vision, SAVE_STEPS=SAVED, **STEPS, **RANKS[1]))
    assert done.returncode == 0, done.stdout + "".join(path.read_text() for path in other.log_files())
    assert f"step {SAVED} of 12: resumed" in other.log_files()[0].read_text()
    for ours, theirs in zip(metrics(other, *CURVE), metrics(run, *CURVE), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)


def test_an_adapter_on_it_is_merged_and_evaluated(project, vision):
    lora = project.train("multimodal-lora", MODEL_NAME=vision, **ADAPTER, **RANKS[1])
    results = json.loads(lora.evaluation.read_text())
    assert results["after"]["loss"] < results["before"]["loss"]
    model = transformers.AutoModelForImageTextToText.from_pretrained(lora.final)
    assert type(model).__name__ == "Qwen3VLForConditionalGeneration"
    base = transformers.AutoModelForImageTextToText.from_pretrained(vision, dtype=torch.float32)
    adapted, ids = peft.PeftModel.from_pretrained(base, str(lora.adapter)), torch.arange(5, 45)[None]
    assert not [name for name, _ in adapted.named_parameters() if "lora_" in name and "visual" in name]
    with torch.no_grad():
        torch.testing.assert_close(model.float()(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-4)
