"""Model families small enough for a unit test."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def model_of(config: transformers.PreTrainedConfig) -> transformers.PreTrainedModel:
    """Return a model of a configuration with weights that are the same every time."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config))
    for parameter in model.parameters():  # large weights, so that what a token sees matters
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def with_pictures(folder: Path, tokenizer: transformers.PreTrainedTokenizerBase, inside: str) -> Path:
    """Write a Gemma 3 that takes pictures. `inside`: what transformers 4 has in its tower's names, or nothing."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config=SIZES | HEADS | {"vocab_size": len(tokenizer), "head_dim": 8}, mm_tokens_per_image=4,
        vision_config=sizes | {"image_size": 28, "patch_size": 14}, image_token_index=5,
    )  # fmt: skip
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    own = {re.sub(r"^vision_tower\.(vision_model\.)?", f"vision_tower.{inside}", name): stored[name] for name in stored}
    save_file(own, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def names_in(folder: Path) -> list[str]:
    """Return the names of the weights in a model's file."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        return sorted(file.keys())
