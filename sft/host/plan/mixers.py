"""What layers keep for backward that mix tokens by other means than attention: state spaces and linear attention.

The bytes were measured with autograd for Qwen3.5, Granite 4 and Mamba. The gated delta rule and Mamba 2 are computed
again in backward (sft/trainer/model/scans.py): only one layer at a time needs room for what they would keep, in fp32.
Kernels of other packages (mamba-ssm) keep less than Mamba's own code in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sft.model_files import Config

KINDS = ("layer_types", "layers_block_type", "layer_block_types")  # config.json's lists with one entry a layer
OTHERS = ("linear_attention", "mamba", "mamba2", "recurrent", "linear")  # entries of layers without attention
CHUNK = 64  # tokens that the gated delta rule and Mamba 2 compute at once
IN_BACKWARD = 1.7  # bytes that Mamba 2 needs there over those that it would keep
PADDING = 1.15  # positions over tokens: sequences are filled up to whole chunks, or padded to similar lengths
# How long one such layer takes, forward, again and backward: memory traffic of the GPU in multiples of what it needs in
# backward, and Python's time in a micro-step. Fitted to one run of each on an H200 and an H100 (benchmarks/README.md).
DELTA_RULE_PASSES, DELTA_RULE_S = 45.0, 0.017
STATE_SPACE_PASSES, STATE_SPACE_S = 24.0, 0.009

Size = Callable[[str], int]  # a size of config.json by its name; 0 if it is not there


@dataclass(frozen=True)
class Mixers:
    """The layers of a model that mix tokens by other means than attention."""

    layers: int = 0
    bytes_per_token: float = 0.0  # that one of them keeps beside what every layer does
    again: float = 0.0  # bytes per token that one of them needs in backward to compute its states again
    passes: float = 0.0  # memory traffic of one of them in a micro-step, in multiples of `again`
    python_s: float = 0.0  # that starting its kernels takes in a micro-step
    beside_attention: bool = False  # in the same layers


ATTENTION_ONLY = Mixers()


def mixers(config: Config, size: Size, layers: int, hidden: int) -> Mixers:
    """Return the layers of a model that are not attention, by its config.json."""
    again, passes, python_s = 0.0, 0.0, 0.0
    if keys := size("linear_num_key_heads") * size("linear_key_head_dim"):
        heads, key_dim = size("linear_num_value_heads"), size("linear_key_head_dim")
        kept, again = delta_rule(keys, heads, heads * size("linear_value_head_dim"), key_dim)
        passes, python_s = DELTA_RULE_PASSES, DELTA_RULE_S
    elif state := size("mamba_d_state") or size("ssm_state_size") or size("state_size"):
        heads = size("mamba_n_heads") or size("mamba_num_heads") or size("n_mamba_heads") or size("num_heads")
        inner = size("mamba_d_ssm") or (size("mamba_expand") or size("expand") or 2) * hidden
        groups = size("mamba_n_groups") or size("n_groups") or size("mamba_ngroups") or 1
        if heads > 1:
            kept, again = state_space(inner, state, heads, groups)
            passes, python_s = STATE_SPACE_PASSES, STATE_SPACE_S
        else:
            kept = PADDING * selective_scan(inner, state)
    else:
        return ATTENTION_ONLY
    beside = config.get("model_type") == "falcon_h1"
    return Mixers(layers if beside else number(config, size, layers), kept, again, passes, python_s, beside)


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


def delta_rule(keys: int, heads: int, values: int, key_dim: int) -> tuple[float, float]:
    """Return the bytes per token that the gated delta rule keeps, and needs in backward: Qwen3-Next, Qwen3.5.

    `keys` and `values`: elements of all heads. Its chunks are filled up, its convolution's rows are not.
    """
    in_chunks = heads * CHUNK * 7 + values * key_dim / CHUNK
    kept = 2 * 3 * (2 * keys + values) + 18 * values + 14 * heads
    return kept, PADDING * 5 * (8 * values + 5 * keys + in_chunks)


def state_space(inner: int, state: int, heads: int, groups: int) -> tuple[float, float]:
    """Return the bytes per token that Mamba 2 keeps, and needs in backward."""
    in_chunks = 3 * heads * CHUNK + 2.1 * state * inner / CHUNK + 3 * groups * state
    return 30 * inner + 12 * groups * state + 2 * heads, IN_BACKWARD * 4 * (in_chunks + 4.2 * inner)


def selective_scan(inner: int, state: int) -> float:
    """Return the bytes per token of Mamba, which is computed token by token."""
    return 14 * inner * state + 30 * inner
