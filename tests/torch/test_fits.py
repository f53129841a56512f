"""A model's files hold its weights: what they lack would be random."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from sft.errors import SettingsError
from sft.settings.load import load
from sft.trainer.trial import fit, fits

from .small_models import HEADS, SIZES

QUERY, BIAS = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.bias"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=False)
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def model(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def changed(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def configured(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def check(folder):
    return fits.check(load(None, model_name=str(folder), model_path=folder.parent / "models"), folder)


def test_a_folder_that_fits_is_looked_at_once(model, monkeypatch):
    assert check(model) == []
    monkeypatch.setattr(fit, "check", None)
    assert check(model) == []
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    with pytest.raises(TypeError):
        check(model)  # again


def test_what_is_said_of_a_folder_is_said_at_every_start_without_another_look(model, monkeypatch):
    changed(model, lambda weights: weights | {"model.more.weight": torch.zeros(2, 2)})
    said = check(model)
    assert len(said) == 1 and "has no place for 1 weight (model.more.weight)" in said[0]
    monkeypatch.setattr(fit, "check", None)
    assert check(model) == said


def test_a_single_file_beside_an_index_is_told(model):
    """transformers writes a model in several files beside a single one of before, and reads that one."""
    for name in ("model-1.safetensors", "model-2.safetensors"):
        shutil.copy(model / "model.safetensors", model / name)
    index = {"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (line,) = check(model)
    assert line.startswith(f"{model} holds model.safetensors beside an index of 2 other files (model-1.safetensors, …)")


def half_written(model):
    """Give a model's file its size, and zeros in place of everything behind the header, as an interrupted download."""
    path = model / "model.safetensors"
    start = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    content = path.read_bytes()
    path.write_bytes(content[:start] + bytes(len(content) - start))


def test_matrices_of_zeros_are_told(model):
    changed(model, lambda weights: weights | {QUERY: torch.zeros_like(weights[QUERY])})
    (line,) = check(model)
    assert line.startswith(f"{model} has nothing but zeros in 1 weight ({QUERY}), as a download leaves")
    half_written(model)
    assert "has nothing but zeros in 16 weights (lm_head.weight, " in check(model)[0]


def test_nothing_of_the_weights_is_read(model, monkeypatch):
    half_written(model)
    found = fit.loaded_without_values(load(None, model_name=str(model)), model)
    assert found and {weight.device.type for weight in found[0].parameters()} == {"meta"}


def without_head(weights):
    return {name: weight for name, weight in weights.items() if name != "lm_head.weight"}


def of_the_base_model(weights):
    return {name.removeprefix("model."): weight for name, weight in without_head(weights).items()}


def under(prefix, weights, instead=""):
    return {prefix + name.removeprefix(instead): weight for name, weight in weights.items()}


def with_adapter(weights):
    name = QUERY.removesuffix(".weight")
    return weights | {f"{name}.lora_{part}.default.weight": torch.ones(2, 2) for part in "AB"}


def with_bias(weights):
    return weights | {BIAS: torch.ones(32)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_head, "lack 1 weight .lm_head.weight. of LlamaForCausalLM, which would be random; fetch"),
        (of_the_base_model, "lack 1 weight .lm_head.weight. of LlamaForCausalLM, which would be random; fetch"),
        (lambda weights: under("module.", weights), "lack .*; take module. off the names in its files: module.lm_head"),
        (
            lambda weights: under("net.", weights, "model."),
            "lack 21 weights .*, and hold 21 weights .net.embed_tokens.weig",
        ),
        (with_adapter, "hold an adapter that was not merged, 2 weights .*; merge it .merge_and_unload of peft., and"),
        (with_bias, f"hold 1 weight .{BIAS}., and its config.json makes these layers without them; fetch"),
        (lambda weights: weights | {QUERY: torch.zeros(8, 8)}, f"hold {QUERY} as .8, 8., and its config.json says"),
    ],
)
def test_files_that_lack_weights_are_refused(model, change, said):
    changed(model, change)
    with pytest.raises(SettingsError, match=f"^MODEL_NAME={model}: its files {said}"):
        check(model)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_pickled_weights_that_are_quantised_are_refused(model, dtype):
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    given = {"model_name": str(model), "model_path": model.parent / "models", "allow_pickle": True}
    torch.save(weights, model / "pytorch_model.bin")
    assert fits.check(load(None, **given), model) == []
    torch.save(
        {name: one.to(dtype) if one.dim() > 1 else one for name, one in weights.items()}, model / "pytorch_model.bin"
    )
    with pytest.raises(
        SettingsError, match=f"weights are quantised already .{str(dtype)[6:]}.; use the model with its"
    ):
        fits.check(load(None, **given), model)


def test_biases_of_zeros_that_a_layer_does_not_have_are_only_told(model):
    changed(model, lambda weights: weights | {BIAS: torch.zeros(32)})
    (line,) = check(model)
    assert f"has no place for 1 weight ({BIAS})" in line


def test_a_padding_token_without_an_embedding_is_refused_before_the_export_fails_for_it(model):
    configured(model, pad_token_id=64)
    with pytest.raises(
        SettingsError, match="says pad_token_id 64, and it has embeddings for 64 tokens .*; set pad_tok"
    ):
        check(model)


def test_a_matrix_of_an_expert_that_is_missing_is_refused_by_its_name(tmp_path):
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "head_dim": 4}
    model = tmp_path / "model"
    transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**SIZES | HEADS | sizes)).save_pretrained(model)
    assert check(model) == []
    name = "model.layers.1.mlp.experts.2.up_proj.weight"
    changed(model, lambda weights: {other: weight for other, weight in weights.items() if other != name})
    with pytest.raises(SettingsError, match=f"^MODEL_NAME={model}: its files lack 1 weight .{name}., which"):
        check(model)


def test_layers_that_transformers_ignores_without_a_word_are_told(tmp_path):
    """DeepSeek V3 is published with a 62nd layer, which predicts the token after the next one."""
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 2, "kv_lora_rank": 4, "q_lora_rank": 4, "n_group": 1}
    sizes |= {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4, "n_routed_experts": 2, "topk_group": 1}
    config = transformers.DeepseekV3Config(
        **SIZES | sizes, num_experts_per_tok=1, moe_intermediate_size=8, first_k_dense_replace=1
    )
    model = tmp_path / "model"
    transformers.DeepseekV3ForCausalLM(config).save_pretrained(model)
    spare = {"model.layers.61.eh_proj.weight": torch.ones(2, 2), "model.rotary_emb.inv_freq": torch.zeros(2)}
    changed(model, lambda weights: weights | spare)
    (line,) = check(model)
    assert "has no place for 1 weight (model.layers.61.eh_proj.weight): they are not used, and not in" in line
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"  # a buffer, which decides between experts
    changed(model, lambda weights: {name: weight for name, weight in weights.items() if name != bias})
    assert f"lacks 1 weight ({bias}) in its files: they keep the values that its class gives them" in check(model)[1]


def test_a_config_of_more_layers_than_the_files_have_is_refused(model):
    configured(model, num_hidden_layers=3)
    with pytest.raises(
        SettingsError, match="its files lack 9 weights .model.layers.2.input_layernorm.weight, .*, …. of"
    ):
        check(model)


def test_weights_that_the_model_does_not_have_are_told(model):
    configured(model, num_hidden_layers=1)
    (line,) = check(model)
    assert line.startswith(f"LlamaForCausalLM from {model} has no place for 9 weights (model.layers.1.")
    assert check(model) == [line]  # each time


def test_a_model_that_was_saved_as_another_class_is_told(model):
    """Models for embeddings are saved without a head. One that is tied to the embeddings can still be trained."""
    configured(model, architectures=["LlamaModel"])
    (line,) = check(model)
    assert line == f"{model} was saved as LlamaModel: it is trained and written as LlamaForCausalLM"


@pytest.mark.parametrize("change", [without_head, of_the_base_model])
def test_a_tied_head_is_not_missed(model, change):
    configured(model, tie_word_embeddings=True)
    changed(model, change)
    assert check(model) == []


def test_a_head_that_config_json_ties_and_that_is_another_is_refused(model):
    configured(model, tie_word_embeddings=True)
    with pytest.raises(SettingsError, match="its config.json ties lm_head.weight to model.embed_tokens.weight .*; set"):
        check(model)
    changed(model, lambda weights: weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()})
    assert check(model) == []


def test_a_generation_config_that_does_not_load_is_refused(model):
    """Without it, the model would be written with other tokens at which it stops."""
    (model / "generation_config.json").write_text("{")
    with pytest.raises(SettingsError, match="its generation_config.json cannot be loaded .*; fix or remove that file"):
        check(model)
