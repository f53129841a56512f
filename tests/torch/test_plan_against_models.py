"""What the plan says of a layer, a model's weights and 4 bits, against real models, autograd and bitsandbytes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from sft.host.plan import cards, lookup, shapes
from sft.host.plan.job import NF4_BYTES, Job
from sft.host.plan.shapes import Shape
from sft.settings.load import load
from sft.trainer.attention import IMPLEMENTATION
from sft.trainer.batching import collate
from sft.trainer.loss import TargetLoss
from sft.trainer.model import adapter

from . import small_models
from .small_models import HEADS

H100 = cards.need("H100")
SIZES = small_models.SIZES | {"pad_token_id": 0}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
FAMILIES = {
    "llama": transformers.LlamaConfig(**SIZES, **HEADS),
    "llama-tied": transformers.LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=True),
    "qwen2": transformers.Qwen2Config(**SIZES, **HEADS),
    "qwen3": transformers.Qwen3Config(**SIZES, **HEADS, head_dim=16),
    "qwen3-moe": transformers.Qwen3MoeConfig(**SIZES, **HEADS, head_dim=8, **EXPERTS),
    "mistral": transformers.MistralConfig(**SIZES, **HEADS),
    "phi3": transformers.Phi3Config(**SIZES, **HEADS),
    "gemma": transformers.GemmaConfig(**SIZES, **HEADS, head_dim=8),
    "gpt2": transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_those_of_the_model(family):
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family])
    config = json.loads(FAMILIES[family].to_json_string())
    assert Shape.of(config, family).weights == sum(parameter.numel() for parameter in model.parameters())


def test_the_built_in_tiny_shape_is_the_tiny_models(tiny):
    found, built_in = shapes.read(tiny / "config.json"), Shape.of(lookup.BUILT_IN["tiny"], "")
    sizes = replace(found, source="", counted=None, activation="")
    assert replace(sizes, vocabulary=built_in.vocabulary) == built_in  # a tokenizer takes what its data has


def saved_for_backward(config, recompute, adapted=None):
    """Return the bytes that autograd keeps of a model of this configuration, weights apart.

    With the settings of an adapter in `adapted` it has that.
    """
    model = transformers.AutoModelForCausalLM.from_config(config).bfloat16()
    if adapted:
        adapter.add(model, adapted)
    model.train().set_attn_implementation(IMPLEMENTATION)
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}  # address: tensor, alive so that no other gets the address

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    batch = collate([(np.arange(256) % 100, np.arange(256) > 128)], True, torch.device("cpu"))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = TargetLoss(model)(*batch)
    assert loss.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", [transformers.LlamaConfig, transformers.Qwen2Config, transformers.Qwen3Config])
def test_what_a_layer_keeps_is_what_autograd_saves(family, recompute):
    sizes = {"vocab_size": 128, "hidden_size": 256, "intermediate_size": 1024, "head_dim": 64, "pad_token_id": 0}
    three, four = (family(**sizes, **HEADS, num_hidden_layers=layers) for layers in (3, 4))
    seen = (saved_for_backward(four, recompute) - saved_for_backward(three, recompute)) / 256
    shape = Shape.of(json.loads(four.to_json_string()), "")
    if recompute:
        assert seen == 2 * shape.hidden
        return
    job = Job.of(load(None, precision="bf16"), shape, H100, fused=False)
    cpus_own = 2 * shape.queries  # on the CPU sequences attend one by one, and are put together in a copy
    assert seen - cpus_own == pytest.approx(job.layer_bytes, rel=0.005)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_what_a_layer_with_adapters_keeps_is_what_autograd_saves(dropout):
    sizes = {"vocab_size": 128, "hidden_size": 256, "intermediate_size": 1024, "head_dim": 64, "pad_token_id": 0}
    three, four = (transformers.LlamaConfig(**sizes, **HEADS, num_hidden_layers=layers) for layers in (3, 4))
    settings = load(None, precision="bf16", lora_rank=8, lora_dropout=dropout, ds_config="zero2")
    seen = (saved_for_backward(four, False, settings) - saved_for_backward(three, False, settings)) / 256
    shape = Shape.of(json.loads(four.to_json_string()), "")
    job = Job.of(settings, shape, H100, fused=False)
    # on the CPU the attention's output is there twice, if the adapter keeps it, and masks are as wide as what they mask
    cpus_own = 5 * 256 + 256 + 1024 if dropout else 2 * shape.queries
    # norms that are not fused keep their fp32 input, not the bf16 one, and their product only for the weight's gradient
    assert seen - cpus_own + 2 * 2 * shape.hidden == pytest.approx(job.layer_bytes, rel=0.005)


@pytest.mark.parametrize("rank", [0, 8])
def test_what_a_layer_with_experts_keeps_is_what_autograd_saves(rank):
    """Frozen experts keep less: neither what goes into them nor what goes into their second matrix."""
    sizes = {"vocab_size": 128, "hidden_size": 256, "intermediate_size": 1024, "head_dim": 64, "pad_token_id": 0}
    sizes |= {"num_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 192}
    three, four = (transformers.Qwen3MoeConfig(**sizes, **HEADS, num_hidden_layers=layers) for layers in (3, 4))
    settings = load(None, precision="bf16", lora_rank=rank, ds_config="zero2")
    adapted = settings if rank else None
    seen = (saved_for_backward(four, False, adapted) - saved_for_backward(three, False, adapted)) / 256
    shape = Shape.of(json.loads(four.to_json_string()), "")
    job = Job.of(settings, shape, H100, fused=False)
    seen += (2 * 2 * shape.hidden if rank else 0) - 2 * shape.queries  # as above
    assert seen == pytest.approx(job.layer_bytes, rel=0.1)


def nf4_bytes(rows, columns):
    """Return the bytes of a matrix of this size in 4 bits, as bitsandbytes makes it."""
    functional = pytest.importorskip("bitsandbytes", reason="not installed; pip install -e '.[dev]'").functional
    packed, state = functional.quantize_4bit(torch.randn(rows, columns), quant_type="nf4", compress_statistics=True)
    return packed.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes


def test_four_bits_take_what_bitsandbytes_makes_of_them():
    assert nf4_bytes(2048, 4096) == NF4_BYTES * 2048 * 4096
