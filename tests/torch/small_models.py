"""Model families small enough for a unit test."""

from __future__ import annotations

import copy

import torch
import transformers

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def model_of(config: transformers.PreTrainedConfig) -> transformers.PreTrainedModel:
    """Return a model of a configuration with weights that are the same every time."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config))
    for parameter in model.parameters():  # large weights, so that what a token sees matters
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()
