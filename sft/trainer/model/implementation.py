"""Which attention a model computes with, by its name for transformers."""

from __future__ import annotations

from typing import Any


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
