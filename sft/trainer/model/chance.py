"""What a model's configuration leaves to chance while it is trained."""

from __future__ import annotations

import re
from typing import Any

import torch
import transformers

LEFT_TO_CHANCE = re.compile(r".*(dropout|pdrop|drop_prob|jitter.*|layerdrop).*")
# Of heads for other tasks, of encoders, and of whole layers.
NOT_IN_USE = re.compile(r"(summary|classif|encoder|audio|vision|position).*|.*layerdrop")
LAYERS = ("layerdrop", "decoder_layerdrop")


def dropout(config: transformers.PreTrainedConfig) -> dict[str, float]:
    """Return the shares that a decoder drops at random while it is trained, by their names in its config.json."""
    content = config.get_text_config(decoder=True).to_dict()
    return {
        name: value
        for name, value in sorted(content.items())
        if LEFT_TO_CHANCE.fullmatch(name) and not NOT_IN_USE.fullmatch(name) and isinstance(value, float) and value > 0
    }


def dropped_layers(config: transformers.PreTrainedConfig) -> float:
    """Return the share of its layers that a decoder was made to leave out at random while it is trained."""
    text = config.get_text_config(decoder=True)
    return max(float(getattr(text, name, None) or 0) for name in LAYERS)


def keep_every_layer(model: torch.nn.Module) -> None:
    """Have a model leave out no layer at random: each rank would leave out another, whose weights others wait for."""
    modules: list[Any] = list(model.modules())
    for module in modules:
        if getattr(module, "layerdrop", 0):
            module.layerdrop = 0.0
