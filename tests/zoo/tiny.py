"""A tiny configuration of any family: the sizes of its default configuration, made small by their names."""

from __future__ import annotations

import re
from typing import Any

import transformers

VOCABULARY = 512
LAYERS = 4
# The first pattern that fits a size's whole name decides it. Lists (one entry a layer) are cut to the layers.
SIZES: tuple[tuple[str, int], ...] = (
    (r"vocab_size", VOCABULARY),
    (r"(num_)?(hidden_layers|layers|hidden_layers_.*)|n_layers?|(decoder|encoder)_layers|depth|num_layers", LAYERS),
    (r"first_k_dense_replace|num_dense_layers|first_num_dense_layers|moe_layer_start_index", 1),
    (r"num_nextn_predict_layers|num_kv_shared_layers|num_mtp_layers", 0),
    (r"linear_num_key_heads|num_key_value_heads|n_kv_heads?|num_global_key_value_heads|swa_num_key_value_heads", 2),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", 8),
    (r"n_groups|mamba_n_groups|mamba_ngroups|n_group|num_expert_group|topk_group|ssm_groups", 1),
    (r".*num_.*heads|n_heads?|(decoder|encoder)_attention_heads|attention_heads|num_heads|index_n_heads", 4),
    (r"num_shared_experts|n_shared_experts|moe_num_shared_experts", 1),
    (r"num_experts_per_tok(en)?|moe_topk|moe_k|top_k_experts|num_experts_per_topk|moe_top_k|.*experts_per_tok.*", 2),
    (r".*num_(local_|routed_)?experts|n_routed_experts|moe_num_experts|n_experts|num_expert", 4),
    (r"qk_rope_head_dim|qk_nope_head_dim|rotary_dim", 8),
    (r"q_lora_rank|kv_lora_rank|o_lora_rank|.*lora_rank|low_rank", 16),
    (r".*head_dim|.*head_size|mamba_d_head|d_kv|mamba_headdim|.*_per_head|attention_key_size|attention_value_size", 16),
    (r".*(intermediate|ffn|inner|feed_forward|mlp).*_(size|dim)(_mlp)?|n_inner|d_ff|d_inner|dff|dim_ff", 128),
    (r"hidden_size_per_layer_input", 16),
    (r"vocab_size_per_layer_input", VOCABULARY),
    (r"hidden_size|n_embd|d_model|embed_dim|embedding_size|dim|emb_dim|lru_width", 64),
    (r"attention_hidden_size|.*hidden_dim", 64),
    (r"sliding_window(_size)?|attention_window.*|window_size|local_attention_window|attention_chunk_size", 16),
    (r"(ssm_|mamba_)?(state_size|d_state)|.*chunk_size|mamba_d_state", 16),
    (r".*max_(encoder_)?position_embeddings|n_positions|n_ctx|max_seq_len|seq_length|max_sequence_length", 512),
)  # fmt: skip
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # sft/trainer/model/tiny.py
OFF = re.compile(r".*(dropout|pdrop|drop_prob|jitter.*|layerdrop).*")
# What the rules above do not get right, family by family.
LATENT = {"num_key_value_heads": 4, "head_dim": 8}  # attention over latents: as many keys as queries, rotated in part
ROPE = {"rope_theta": 1e4, "rope_type": "default"}
HYBRID = ["conv", "conv", "full_attention", "conv"]
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": {"attn_layer_indices": [1]},
    "deepseek_v2": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "blt": {"encoder_hash_byte_group_vocab": VOCABULARY, "encoder_hash_byte_group_size": [3]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "nemotron": {"head_dim": 16},
    "zamba2": {"attention_head_dim": 32},
    "reformer": {"axial_pos_embds": False},
    "roc_bert": {"enable_pronunciation": False, "enable_shape": False},
    "lfm2_moe": {"layer_types": HYBRID, "num_dense_layers": 1},
    "longcat_flash": {"zero_expert_num": 2},
    "mamba2": {"num_heads": 8},
    "zamba": {"layers_block_type": None, "num_hidden_layers": 8, "attn_layer_offset": 2, "attn_layer_period": 3},
    "qwen4_exp_text": {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 32}
    | {"indexer_compress_ratio": 4, "ngram_vocab_size_base": 512, "ple_embed_dim": 64, "hc_lowrank": 16},
    "qwen4_exp": {},
}
EXCEPTIONS["qwen4_exp"] = {"text_config": EXCEPTIONS["qwen4_exp_text"]}
UNSAID = {"head_dim": 16, "n_inner": 128}  # sizes that may be None, and then follow from others in some families


def config_of(family: str) -> transformers.PreTrainedConfig:
    """Return a tiny configuration of a family, by its model_type."""
    return small(transformers.CONFIG_MAPPING[family], EXCEPTIONS.get(family, {}))


def small(kind: type[transformers.PreTrainedConfig], exceptions: dict[str, Any]) -> transformers.PreTrainedConfig:
    """Return a configuration of a class with its sizes made small."""
    default = kind()
    content = default.to_dict()
    parts = {name: value for name, value in vars(default).items() if isinstance(value, transformers.PreTrainedConfig)}
    deep = content.get("num_hidden_layers") or getattr(default, "num_hidden_layers", None)
    given: dict[str, Any] = {}
    for name, value in content.items():
        if name in parts:
            given[name] = small(type(parts[name]), exceptions.get(name, {})).to_dict()
        elif OFF.fullmatch(name) and isinstance(value, float):
            given[name] = 0.0
        elif isinstance(value, list) and deep and len(value) == deep and deep > LAYERS:
            fitting = size_of(name)
            given[name] = some_of_each(value) if fitting is None else [fitting] * LAYERS
        elif isinstance(value, int) and not isinstance(value, bool):
            fitting = size_of(name)
            if fitting is not None and (value > fitting or name in ("vocab_size",)):
                given[name] = fitting
    given |= {name: token for name, token in TOKENS.items() if name in content}
    given |= {"use_cache": True} if "use_cache" in content else {}
    given |= {"is_decoder": True} if "is_decoder" in content and "is_encoder_decoder" in content else {}
    given |= {name: size for name, size in UNSAID.items() if name in content and content[name] is None}
    given |= {name: value for name, value in LATENT.items() if "qk_rope_head_dim" in content and name in content}
    given |= {name: value for name, value in exceptions.items() if name not in parts}
    return kind(**given)


def size_of(name: str) -> int | None:
    """Return the small value of a size by its name, or None for what is not a size."""
    return next((size for pattern, size in SIZES if re.fullmatch(pattern, name)), None)


def some_of_each(values: list[Any]) -> list[Any]:
    """Return LAYERS entries of a list with one a layer: the first ones, and one of each other kind at the end."""
    first = values[:LAYERS]
    others = [value for value in dict.fromkeys(map(str, values)) if value not in map(str, first)]
    kept = first[: LAYERS - len(others)] if len(others) < LAYERS else []
    return kept + [next(value for value in values if str(value) == other) for other in others][: LAYERS - len(kept)]
