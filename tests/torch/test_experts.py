"""Adapters on the experts of a mixture: which tensors they are, and what cannot be."""

import json

import pytest
import torch
import transformers

from sft.errors import SettingsError
from sft.host.plan.job import adapter_weights
from sft.host.plan.shapes import Shape
from sft.settings.load import load
from sft.trainer.model import adapter, experts
from tests.settings import decided

from . import small_models
from .small_models import HEADS, model_of

SIZES = small_models.SIZES | HEADS | {"num_experts_per_tok": 2, "pad_token_id": 0}
MIXTURES = {
    "mixtral": transformers.MixtralConfig(**SIZES, num_local_experts=4),
    "qwen3-moe": transformers.Qwen3MoeConfig(**SIZES, head_dim=8, num_experts=4, moe_intermediate_size=16),
    "gpt-oss": transformers.GptOssConfig(**SIZES, head_dim=8, num_local_experts=4),
}
WITH_EXPERTS = {"lora_rank": 3, "lora_targets": "all-linear,experts"}


@pytest.mark.parametrize("family", MIXTURES)
def test_every_expert_gets_an_adapter_of_its_own(family):
    model = model_of(MIXTURES[family])
    whole = sum(parameter.numel() for parameter in experts.tensors(model).values())
    assert whole == 2 * 4 * 3 * 32 * (16 if family == "qwen3-moe" else 64)
    ids = torch.arange(3, 13)[None]
    before = model(input_ids=ids).logits
    adapter.add(model, load(None, **WITH_EXPERTS))
    torch.testing.assert_close(model(input_ids=ids).logits, before)  # an adapter begins as nothing
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    model.train()(input_ids=ids, labels=ids).loss.backward()
    after = {name for name, p in trained.items() if "experts" in name and "lora_B" in name and p.grad.abs().sum() > 0}
    assert len(after) == 2 * 2  # two layers, two tensors in each


@pytest.mark.parametrize("family", ["mixtral", "qwen3-moe"])
@pytest.mark.parametrize("targets", ["all-linear", "all-linear,experts"])
def test_the_plan_counts_the_adapters_weights(family, targets):
    model = model_of(MIXTURES[family])
    settings = load(None, lora_rank=3, lora_targets=targets)
    adapter.add(model, settings)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shape = Shape.of(json.loads(MIXTURES[family].to_json_string()), "")
    assert adapter_weights(shape, 3, settings.adapts_experts) == pytest.approx(trained, rel=0.02)


@pytest.mark.parametrize("family", MIXTURES)
def test_all_linear_reaches_no_expert_unasked(family):
    model = model_of(MIXTURES[family])
    adapter.add(model, load(None, lora_rank=3))
    assert not [name for name, p in model.named_parameters() if p.requires_grad and "experts" in name]


@pytest.mark.parametrize(("family", "moved"), [("deepseek_v3", True), ("glm4_moe", True), ("llama", False)])
def test_an_adapter_that_peft_would_load_otherwise_is_known(family, moved):
    assert bool(experts.moved_by_peft(family, {"q_proj", "gate_proj", "down_proj"})) is moved
    assert not experts.moved_by_peft(family, {"q_proj"})


@pytest.mark.parametrize("targets", ["all-linear", "all-linear,experts"])
def test_whoever_takes_an_adapter_on_experts_to_another_program_is_told(tiny, tmp_path, targets):
    """transformers 4 has each expert by itself, and peft loads such an adapter there without the experts' part."""
    settings = decided(model_name=str(tiny), lora_rank=3, lora_targets=targets, nodes=1, gpus_per_node=1)
    model = model_of(MIXTURES["mixtral"])
    adapter.add(model, settings)
    said = adapter.write(model, model.state_dict(), tiny, None, tmp_path / "adapter", settings)
    assert ["use final/" in line for line in said] == [True] * (targets != "all-linear")


def test_experts_are_refused_where_they_cannot_have_adapters():
    dense, mixture = model_of(transformers.LlamaConfig(**SIZES)), model_of(MIXTURES["mixtral"])
    with pytest.raises(SettingsError, match="LORA_TARGETS=all-linear,experts: this model has no experts"):
        adapter.check_targets(dense, load(None, **WITH_EXPERTS))
    with pytest.raises(
        SettingsError, match=r"LORA_DROPOUT=0.1: an adapter on experts has no dropout; use LORA_DROPOUT=0"
    ):
        adapter.check_targets(mixture, load(None, **WITH_EXPERTS, lora_dropout=0.1))
