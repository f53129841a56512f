"""A configuration of the same model in a size that costs nothing to try.

`divided` keeps what decides whether a kernel fits (the size of a head, caps, sinks, kinds of layers, rotary embeddings)
and divides all widths and numbers of heads by one number, so that they fit each other as they did. `shrunk` gives every
size a small value by its name, for families whose sizes hang together in other ways.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

import transformers

VOCABULARY = 512
LAYERS = 4
MOST_LAYERS = 12  # where a kind of layer comes once in so many
HEADS = 2
WIDTH = 128  # of a model without heads
SMALL = (256, 8, 8192)  # width, layers and vocabulary of a model that is tried in its own size
MULTIPLE = 8  # of widths: kernels ask for it
HEAD_COUNTS = ("num_attention_heads", "num_heads", "mamba_n_heads", "mamba_num_heads")
WIDTHS = ("hidden_size", "embedding_dim")

# What `divided` does with a size: give it the small value if that is less, divide it, or keep it.
How = Literal["least", "divide", "keep"]
# The first pattern that fits a size's whole name decides. Lists (one entry a layer) are cut to the layers.
SIZES: tuple[tuple[str, int, How], ...] = (
    (r"(.*_)?vocab(_size)?(_base)?", VOCABULARY, "least"),
    (r"(num_)?(hidden_layers|layers|hidden_layers_.*)|n_layers?|(decoder|encoder)_layers|depth|num_layers", LAYERS,
     "least"),
    (r"first_k_dense_replace|num_dense_layers|first_num_dense_layers|moe_layer_start_index", 1, "least"),
    (r"num_nextn_predict_layers|num_kv_shared_layers|num_mtp_layers", 0, "least"),
    (r"linear_num_key_heads|num_key_value_heads|n_kv_heads?|num_global_key_value_heads|swa_num_key_value_heads", 2,
     "divide"),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", 8, "divide"),
    (r"mamba_d_ssm|mamba_intermediate", 1024, "divide"),
    (r"n_groups|mamba_n_groups|mamba_ngroups|n_group|num_expert_group|topk_group|ssm_groups", 1, "least"),
    (r".*num_.*heads|n_heads?|(decoder|encoder)_attention_heads|attention_heads|num_heads|index_n_heads", 4, "divide"),
    (r"num_shared_experts|n_shared_experts|moe_num_shared_experts", 1, "least"),
    (r"num_experts_per_tok(en)?|moe_topk|moe_k|top_k_experts|num_experts_per_topk|moe_top_k|.*experts_per_tok.*", 2,
     "least"),
    (r".*num_(local_|routed_)?experts|n_routed_experts|moe_num_experts|n_experts|num_expert", 4, "least"),
    (r"qk_rope_head_dim|qk_nope_head_dim|rotary_dim", 8, "keep"),
    (r"q_lora_rank|kv_lora_rank|o_lora_rank|.*lora_rank|low_rank", 16, "least"),
    (r".*head_dim|.*head_size|mamba_d_head|d_kv|mamba_headdim|.*_per_head|attention_key_size|attention_value_size", 16,
     "keep"),
    (r".*(intermediate|ffn|inner|feed_forward|mlp).*_(size|dim)(_mlp)?|n_inner|d_ff|d_inner|dff|dim_ff", 128, "divide"),
    (r"hidden_size_per_layer_input", 16, "least"),
    (r"vocab_size_per_layer_input", VOCABULARY, "least"),
    (r"hidden_size|n_embd|d_model|embed_dim|embedding_(size|dim)|(emb_)?dim|lru_width|.*embed_proj_dim", 64, "divide"),
    (r"attention_hidden_size|.*hidden_dim", 64, "divide"),
    (r"sliding_window(_size)?|attention_window.*|window_size|local_attention_window|.*chunk_size", 16, "least"),
    (r"(ssm_|mamba_)?(state_size|d_state)|mamba_d_state", 16, "keep"),
    (r".*max_(encoder_)?position_embeddings|n_positions|n_ctx|max_seq_len|(seq|max_sequence)_length", 512, "least"),
)  # fmt: skip
WINDOW = re.compile(r"sliding_window(_size)?|attention_window.*|window_size|local_attention_window|.*chunk_size")
PERIODS = re.compile(r".*_(period|interval|every_n_layers|frequency|group_size|pattern)")
OFF = re.compile(r".*(dropout|pdrop|drop_prob|jitter.*|layerdrop).*")
TOKEN = re.compile(r".*_token_(id|index)")
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
# Not sizes: what transformers notes about the file itself, and what it derives from the kinds of the layers.
ABOUT = ("architectures", "transformers_version", "_name_or_path", "model_type", "torch_dtype", "dtype",
         "per_layer_config")  # fmt: skip

Content = dict[str, Any]  # of a config.json


def divided(config: transformers.PreTrainedConfig, longest: int = 2**62) -> transformers.PreTrainedConfig:
    """Return a copy whose widths and heads are divided by one number, with a few layers of each kind.

    Windows of the attention get small, so that they show in short rows, if the `longest` row is longer than they are.
    """
    parts, content = parts_of(config), config.to_dict()
    ratio, layers = ratio_of(config), layers_of(content)
    changed = common_changes(content)
    for name, value in content.items():
        if name in parts:
            changed[name] = divided(parts[name], longest).to_dict()
        elif name in changed or (WINDOW.fullmatch(name) and is_size(value, longest)):
            continue
        elif is_size(value):
            changed[name] = smaller(name, value, ratio, layers)
        elif is_one_a_layer(value, content):
            changed[name] = [
                smaller(name, one, ratio, layers) if is_size(one) else one for one in some_of_each(value, layers)
            ]
    return made(config, changed)


def shrunk(
    config: transformers.PreTrainedConfig, given: Mapping[str, Any] | None = None
) -> transformers.PreTrainedConfig:
    """Return a copy with a small value for every size that SIZES knows; `given` values take precedence."""
    parts, content = parts_of(config), config.to_dict()
    changed = common_changes(content)
    for name, value in content.items():
        if name in parts:
            changed[name] = shrunk(parts[name]).to_dict()
        elif is_one_a_layer(value, content) and len(value) > LAYERS:
            fitting = size_of(name)
            changed[name] = some_of_each(value, LAYERS) if fitting is None else [fitting] * LAYERS
        elif is_size(value):
            fitting = size_of(name)
            if fitting is not None and (value > fitting or name == "vocab_size"):
                changed[name] = fitting
    changed |= {name: token for name, token in TOKENS.items() if name in content}
    return made(config, {**changed, **(given or {})})


def as_it_is(config: transformers.PreTrainedConfig) -> transformers.PreTrainedConfig:
    """Return a copy in the same size, without dropout."""
    changed = common_changes(config.to_dict())
    changed = {name: value for name, value in changed.items() if not TOKEN.fullmatch(name)}
    return made(config, changed | {name: as_it_is(part).to_dict() for name, part in parts_of(config).items()})


def is_small(config: transformers.PreTrainedConfig) -> bool:
    """Tell whether a model is so small that it can be tried in its own size."""
    sizes = [
        size_in(one, (name,))
        for one in (config.get_text_config(), *parts_of(config).values())
        for name in ("hidden_size", "num_hidden_layers", "vocab_size")
    ]
    return any(sizes) and all(size <= most for size, most in zip(sizes, itertools.cycle(SMALL), strict=False))


def made(config: transformers.PreTrainedConfig, changed: Content) -> transformers.PreTrainedConfig:
    """Return a configuration of the same class, with what `config` has beside its class's defaults, and changes."""
    content = config.to_dict()
    try:
        defaults = type(config)().to_dict()
    except Exception:  # a class without defaults, with an error of its own
        defaults = {}
    own = {
        name: value
        for name, value in content.items()
        if name not in ABOUT and name[0] != "_" and (name not in defaults or defaults[name] != value)
    }
    found = type(config)(**(own | changed))
    found.architectures = config.architectures
    return found


def common_changes(content: Content) -> Content:
    """Return the changes of every copy: no dropout, and no token beyond the vocabulary."""
    changed: Content = {
        name: 0.0 for name, value in content.items() if OFF.fullmatch(name) and isinstance(value, float)
    }
    beyond = [name for name, value in content.items() if TOKEN.fullmatch(name) and is_size(value, VOCABULARY)]
    return changed | {name: VOCABULARY - 1 - place for place, name in enumerate(beyond)}


def parts_of(config: transformers.PreTrainedConfig) -> dict[str, transformers.PreTrainedConfig]:
    """Return the configurations inside one, such as that of a multimodal model's text."""
    return {name: value for name, value in vars(config).items() if isinstance(value, transformers.PreTrainedConfig)}


def is_size(value: object, at_least: int = 1) -> bool:
    """Tell whether a value is a positive whole number."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least


def is_one_a_layer(value: object, content: Content) -> bool:
    """Tell whether a value has an entry for each layer."""
    deep = content.get("num_hidden_layers") or content.get("n_layer") or content.get("num_layers")
    return isinstance(value, list) and len(value) > 1 and len(value) == deep


def ratio_of(config: transformers.PreTrainedConfig) -> Fraction:
    """Return what to multiply widths and numbers of heads with: it leaves HEADS heads, each as large as it was."""
    heads, width = (size_in(config, names) for names in (HEAD_COUNTS, WIDTHS))
    if heads > HEADS:
        return Fraction(HEADS, heads)
    return Fraction(WIDTH, width) if not heads and width > WIDTH else Fraction(1)


def size_in(config: transformers.PreTrainedConfig, names: tuple[str, ...]) -> int:
    """Return the first size among attributes of a configuration, which may know them under other names; 0: none."""
    for name in names:
        try:
            value = getattr(config, name, 0)
        except Exception:  # a value that differs from layer to layer, with an error of its own
            continue
        if is_size(value):
            return int(value)
    return 0


def layers_of(content: Content) -> int:
    """Return the number of layers of a copy: enough for a kind of layer that comes once in so many."""
    periods = [value for name, value in content.items() if PERIODS.fullmatch(name) and is_size(value)]
    return max(LAYERS, min(MOST_LAYERS, *periods)) if periods else LAYERS


def smaller(name: str, value: int, ratio: Fraction, layers: int) -> int:
    """Return a size of a divided copy."""
    for pattern, size, how in SIZES:
        if re.fullmatch(pattern, name):
            if how == "divide" and "heads" in name:
                return max(1, math.floor(value * ratio))
            if how == "divide":
                return MULTIPLE * math.ceil(value * ratio / MULTIPLE)
            return value if how == "keep" else min(value, layers if size == LAYERS and "layer" in name else size)
    return value


def size_of(name: str) -> int | None:
    """Return the small value of a size by its name, or None for what is not a size."""
    return next((size for pattern, size, _ in SIZES if re.fullmatch(pattern, name)), None)


def some_of_each(values: list[Any], layers: int) -> list[Any]:
    """Return `layers` entries of a list with one a layer: the first ones, and one of each other kind at the end."""
    first = values[:layers]
    others = [value for value in dict.fromkeys(map(str, values)) if value not in map(str, first)]
    kept = first[: layers - len(others)] if len(others) < layers else []
    return kept + [next(value for value in values if str(value) == other) for other in others][: layers - len(kept)]
