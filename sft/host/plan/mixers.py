"""What layers keep for backward that mix tokens by other means than attention: state spaces and linear attention.

The bytes are those of transformers' own code in PyTorch, measured with autograd for Qwen3.5, Granite 4 and Mamba. Its
states are in fp32, whatever the precision. Kernels of other packages (mamba-ssm, flash-linear-attention) keep less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sft.model_files import Config

KINDS = ("layer_types", "layers_block_type", "layer_block_types")  # config.json's lists with one entry a layer
OTHERS = ("linear_attention", "mamba", "mamba2", "recurrent", "linear")  # entries of layers without attention
DELTA_CHUNK = 64  # tokens that the gated delta rule computes at once
PADDING = 1.15  # positions over tokens: such layers are computed on sequences of similar lengths, padded

Size = Callable[[str], int]  # a size of config.json by its name; 0 if it is not there


@dataclass(frozen=True)
class Mixers:
    """The layers of a model that mix tokens by other means than attention."""

    layers: int = 0
    bytes_per_token: float = 0.0  # that one of them keeps beside what every layer does
    beside_attention: bool = False  # in the same layers


ATTENTION_ONLY = Mixers()


def mixers(config: Config, size: Size, layers: int, hidden: int) -> Mixers:
    """Return the layers of a model that are not attention, by its config.json."""
    if keys := size("linear_num_key_heads") * size("linear_key_head_dim"):
        kept = delta_rule(
            keys, size("linear_num_value_heads"), size("linear_value_head_dim"), size("linear_key_head_dim")
        )
    elif state := size("mamba_d_state") or size("ssm_state_size") or size("state_size"):
        heads = size("mamba_n_heads") or size("mamba_num_heads") or size("n_mamba_heads") or size("num_heads")
        inner = size("mamba_d_ssm") or (size("mamba_expand") or size("expand") or 2) * hidden
        chunk = size("mamba_chunk_size") or size("chunk_size") or 256
        kept = state_space(inner, state, heads, chunk) if heads > 1 else selective_scan(inner, state)
    else:
        return ATTENTION_ONLY
    beside = config.get("model_type") == "falcon_h1"
    return Mixers(layers if beside else number(config, size, layers), PADDING * kept, beside)


def number(config: Config, size: Size, layers: int) -> int:
    """Return how many layers are not attention."""
    for name in KINDS:
        kinds = config.get(name)
        if isinstance(kinds, list) and kinds:
            return sum(kind in OTHERS for kind in kinds)
    if isinstance(pattern := config.get("hybrid_override_pattern"), str):
        return pattern.count("M")
    if isinstance(places := config.get("attn_layer_indices"), list):
        return layers - len(places)
    period = size("full_attention_interval") or size("attn_layer_period")
    return layers - layers // period if period else layers


def delta_rule(keys: int, heads: int, value_dim: int, key_dim: int) -> float:
    """Return the bytes per token of the gated delta rule: Qwen3-Next, Qwen3.5. `keys`: of all key heads."""
    values = heads * value_dim
    in_chunks = heads * DELTA_CHUNK * 7 + values * key_dim / DELTA_CHUNK
    return 4 * (8 * values + 5 * keys + in_chunks) + 2 * 3 * (2 * keys + values) + 4 * values


def state_space(inner: int, state: int, heads: int, chunk: int) -> float:
    """Return the bytes per token of Mamba 2."""
    in_chunks = 4 * heads * chunk + 3.25 * state * inner / chunk
    return 4 * (4 * heads * state + in_chunks + 7 * inner) + 8 * (inner + 2 * state)


def selective_scan(inner: int, state: int) -> float:
    """Return the bytes per token of Mamba, which is computed token by token."""
    return 14 * inner * state + 30 * inner
