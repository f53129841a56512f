"""Which attention a model computes with, by its name for transformers."""

from __future__ import annotations

import copy
from typing import Any

import transformers


def use_attention(model: Any, name: str) -> None:
    """Have a model use an attention; one with towers that do not know it, in its language model alone.

    Raises ValueError if the language model does not know it either.
    """
    try:
        model.set_attn_implementation(name)
    except ValueError:
        text = model.config.get_text_config()
        parts = [part for part in model.config.sub_configs if getattr(model.config, part) is text]
        if not parts:
            raise
        written_out = dict.fromkeys(model.config.sub_configs, "eager")
        model.set_attn_implementation(written_out | {"": name, parts[0]: name})


def undecided(config: transformers.PreTrainedConfig) -> transformers.PreTrainedConfig:
    """Return a copy of a configuration that leaves the attention to transformers, and asks for none of its scores.

    A model's config.json may name one that is not installed here, and some families cannot be built with that of the
    training. A tower's part of a configuration may have parts again.
    """
    own = copy.deepcopy(config)
    parts = [own]
    while parts:
        part = parts.pop()
        part._attn_implementation_internal = None
        if getattr(part, "output_attentions", False):  # no attention but one that is written out has them
            part.output_attentions = False
        parts += [inner for inner in vars(part).values() if isinstance(inner, transformers.PreTrainedConfig)]
    return own
