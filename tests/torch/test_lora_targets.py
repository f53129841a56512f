"""Every name in LORA_TARGETS fits a linear layer of the model, or the run is refused with that name."""

import pytest

from sft.errors import SettingsError
from sft.settings.load import load
from sft.trainer import prepare


def check(model, targets):
    settings = load(None, model_name=str(model), lora_rank=2, lora_targets=targets)
    prepare.check_lora_targets(settings, model)


@pytest.mark.parametrize("targets", ["all-linear", "q_proj", " q_proj , v_proj,", "model.layers.0.mlp.up_proj,lm_head"])
def test_names_of_linear_layers_are_taken(tiny, targets):
    check(tiny, targets)


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
