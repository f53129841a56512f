"""Every name in LORA_TARGETS fits a linear layer of the model, or the run is refused with that name."""

import re

import pytest
import transformers

from sft.errors import SettingsError
from sft.settings.load import load
from sft.trainer import capabilities, prepare
from sft.trainer.loss import TargetLoss
from sft.trainer.model import adapter
from tests.settings import decided


def check(model, targets):
    settings = load(None, model_name=str(model), lora_rank=2, lora_targets=targets)
    prepare.check_lora_targets(settings, model)


@pytest.mark.parametrize("targets", ["all-linear", "q_proj", " q_proj , v_proj,", "model.layers.0.mlp.up_proj"])
def test_names_of_linear_layers_are_taken(tiny, targets):
    check(tiny, targets)


def test_a_head_is_taken_unless_it_is_tied_to_the_embeddings(tiny, tmp_path):
    """Merged, an adapter beside a tied head would change the embeddings too."""
    with pytest.raises(SettingsError, match="q_proj,lm_head: lm_head shares its weights with another layer, .*; leave"):
        check(tiny, "q_proj,lm_head")
    config = transformers.AutoConfig.from_pretrained(tiny, tie_word_embeddings=False)
    config.save_pretrained(tmp_path)
    check(tmp_path, "q_proj,lm_head")


def test_layers_that_share_their_weights_get_no_adapters_and_that_is_said():
    config = transformers.ZambaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_attention_heads=4, num_key_value_heads=4,
        n_mamba_heads=2, num_hidden_layers=4, layers_block_type=["mamba", "hybrid"] * 2, tie_word_embeddings=True,
    )  # fmt: skip
    model, settings = transformers.AutoModelForCausalLM.from_config(config), decided(lora_rank=2)
    adapter.add(model, settings)
    adapted = {name.partition(".lora_")[0] for name, _ in model.named_parameters() if ".lora_A." in name}
    assert adapted and not any("shared_transf" in name for name in adapted)
    said = capabilities.without_adapters(TargetLoss(model), settings)
    assert re.match("no adapter reaches what several layers share, [1-9][0-9]?% of the weights", said[-1])


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("q_proj,v_porj", ["LORA_TARGETS=q_proj,v_porj: v_porj is not a layer of this model; did you mean v_proj?"]),
        ("input_layernorm", ["LORA_TARGETS=input_layernorm: input_layernorm is not a linear layer; use all-linear or "
                             "some of down_proj,gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj"]),
        ("xyz,qproj", ["LORA_TARGETS=xyz,qproj: xyz is not a layer of this model; use all-linear or some of "
                       "down_proj,gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj",
                       "LORA_TARGETS=xyz,qproj: qproj is not a layer of this model; did you mean q_proj?"]),
    ],
)  # fmt: skip
def test_a_name_that_fits_nothing_is_refused_beside_those_that_fit(tiny, targets, said):
    with pytest.raises(SettingsError) as refused:
        check(tiny, targets)
    assert refused.value.problems == said
