"""4-bit weights under an adapter: they stay as they are, and the merged model is what was trained."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from sft.settings import deepspeed
from sft.trainer.model import adapter, published, quantised, towers
from sft.trainer.model.load import load_model, permissions
from tests.settings import decided
from tests.zoo import tiny

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed; pip install -e '.[dev]'")

SIZES = {"vocab_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0}
FAMILIES = {
    "llama": transformers.LlamaConfig(**SIZES, **LLAMA),
    "qwen2": transformers.Qwen2Config(**SIZES, **LLAMA, tie_word_embeddings=True),  # with biases
    "gpt2": transformers.GPT2Config(**SIZES, **GPT2),  # whose layers are no linear ones
}
CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=FAMILIES)
def base(request, tmp_path, tokenizer):
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(FAMILIES[request.param]).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def settings():
    given = {"lora_rank": 4, "lora_base_bits": 4, "ds_config": "zero2", "nodes": 1, "gpus_per_node": 1}
    return decided(model_name="tiny", **given)


@pytest.fixture
def adapted(base, settings):
    """The quantised model with an adapter that is not zero, in training mode."""
    model = load_model(base, settings, CPU, deepspeed.configuration(settings))
    adapter.add(model, settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def logits(model):
    with torch.no_grad():
        return model(torch.arange(5, 45)[None]).logits


def test_the_layers_matrices_are_quantised_and_nothing_else(adapted):
    found = [name for name, _ in quantised.weights(adapted)]
    assert len(found) == 2 * (4 if adapted.config.model_type == "gpt2" else 7)
    assert not [name for name in found if "head" in name or "embed" in name or "wte" in name]


def test_the_merged_model_is_what_was_trained(base, adapted, settings, tmp_path):
    trained = logits(adapted)
    adapter.write(adapted, adapted.state_dict(), base, None, tmp_path / "adapter", settings)
    merged = adapter.merged(adapted, base, tmp_path / "adapter", permissions(settings)).eval()
    torch.testing.assert_close(logits(merged), trained, atol=1e-4, rtol=1e-4)
    assert "quantization_config" not in json.loads(merged.config.to_json_string())


def test_a_tower_that_was_quantised_in_training_is_the_base_models_again(tmp_path, tokenizer, settings):
    published.from_config(tiny.config_of("gemma3")).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = load_model(tmp_path / "base", settings, CPU, deepspeed.configuration(settings))
    unused = towers.freeze(model)
    adapter.add(model, settings, unused)
    assert {name for name, _ in quantised.weights(model)} & set(unused)
    adapter.write(model, model.state_dict(), tmp_path / "base", None, tmp_path / "adapter", settings)
    base = published.from_pretrained(tmp_path / "base", dtype=model.dtype).state_dict()
    final = adapter.merged(model, tmp_path / "base", tmp_path / "adapter", permissions(settings), unused).state_dict()
    assert all(torch.equal(base[name], final[name]) for name in unused)


def test_evaluation_leaves_the_weights_as_they_are(adapted):
    before = {name: value.clone() for name, value in quantised.weights(adapted)}
    logits(adapted.eval())
    assert all(torch.equal(value, before[name]) for name, value in quantised.weights(adapted))
    adapted.train()(torch.arange(5, 45)[None]).logits.sum().backward()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    assert trained and all(parameter.grad is not None for parameter in trained)


def test_evaluations_own_model_is_not_quantised(base, settings):
    assert not list(quantised.weights(load_model(base, settings, CPU)))


def test_only_a_run_with_an_adapter_imports_bitsandbytes():
    code = "import sys, benchmarks.steps; assert not {'peft', 'bitsandbytes'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # it starts CUDA, after which the benchmarks' variants could not fork
