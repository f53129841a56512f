"""A tiny configuration of any family: the sizes of its default configuration, made small by their names."""

from __future__ import annotations

from typing import Any

import transformers

from sft.trainer.model import tiny_copy
from sft.trainer.model.tiny_copy import VOCABULARY

# What the rules for names do not get right, family by family.
LATENT = {"num_key_value_heads": 4, "head_dim": 8}  # attention over latents: as many keys as queries, rotated in part
ROPE = {"rope_theta": 1e4, "rope_type": "default"}
HYBRID = ["conv", "conv", "full_attention", "conv"]
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": {"attn_layer_indices": [1]},
    "deepseek_v2": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "blt": {"encoder_hash_byte_group_vocab": VOCABULARY, "encoder_hash_byte_group_size": [3], "cross_attn_k": 1}
    | {f"{part}coder_config": {"cross_attn_k": 1} for part in ("en", "de")},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "muse_spark": {"out_hidden_size": 64, "projector_hidden_size": 64}
    | {"audio_config": {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}},
    "nemotron": {"head_dim": 16},
    "zamba2": {"attention_hidden_size": 128, "attention_head_dim": 32},
    "reformer": {"axial_pos_embds": False},
    "roc_bert": {"enable_pronunciation": False, "enable_shape": False},
    "lfm2_moe": {"layer_types": HYBRID, "num_dense_layers": 1},
    "longcat_flash": {"zero_expert_num": 2},
    "mamba2": {"num_heads": 8},
    "zamba": {
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "layers_block_type": None,
        "num_hidden_layers": 8,
        "attn_layer_offset": 2,
        "attn_layer_period": 3,
    },
    "qwen4_exp_text": {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 32}
    | {"indexer_compress_ratio": 4, "ngram_vocab_size_base": 512, "ple_embed_dim": 64, "hc_lowrank": 16},
    "qwen4_exp": {},
}
EXCEPTIONS["qwen4_exp"] = {"text_config": EXCEPTIONS["qwen4_exp_text"]}
# How many frequencies turn with the time, height and width of a picture's token: half of a head's rotated elements.
MROPE = {"text_config": {"rope_parameters": ROPE | {"mrope_section": [2, 3, 3]}}}
HALF_MROPE = {"text_config": {"rope_parameters": ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}}}
EXCEPTIONS |= dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "glm4v", "glm46v", "glm_ocr", "glmga", "paddleocr_vl"), MROPE)
EXCEPTIONS |= {"glm4v_moe": HALF_MROPE}
EXCEPTIONS |= {"hunyuan_vl": {"text_config": {"rope_parameters": ROPE | {"xdrope_section": [2, 2, 2, 2]}}}}
EXCEPTIONS["qwen2_5_omni_thinker"] = MROPE | {"vision_start_token_id": 480}
EXCEPTIONS |= {family: {"vocabulary_map": {"<image>": 490}} for family in ("emu3", "chameleon")}
# Sizes that the default configurations of these families do not have, or that hang together in their own way.
COMPASS = EXCEPTIONS["cohere_compass_text"]
EXCEPTIONS |= {
    "cohere_compass": {"text_config": COMPASS},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "deepseek_ocr2": {
        "text_config": {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"], "num_experts_per_tok": 2}
    },
    "diffusion_gemma": {"text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 64}},
    "dots3_note": {"text_config": {"head_dim": 16}},
    "dots3_note_text": {"head_dim": 16},
    "ernie4_5_vl_moe": {"text_config": {"rope_parameters": ROPE | {"mrope_section": [3, 3, 2]}}},
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 16}},
    "granite4_vision": {"deepstack_layer_map": [], "spatial_target_layers": [], "downsample_rate": "4/8"},
    "hunyuan_vl": {"text_config": {"rope_parameters": ROPE | {"xdrope_section": [2, 2, 2, 2]}}},
    "kyutai_speech_to_text": {"codec_config": {"upsample_groups": 64, "num_filters": 4}},
    "mistral4": {"num_key_value_heads": 4, "head_dim": 16},
    "molmo2": {"adapter_config": {"vision_feature_layer": [3, 2]}},
    "muse_spark": {"out_hidden_size": 64, "projector_hidden_size": 64}
    | {"audio_config": {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1]}},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    "qwen3_omni_moe": {
        "talker_config": {"spatial_merge_size": 2, "text_config": {"shared_expert_intermediate_size": 64}}
    },
    "step3p7": {"text_config": {"sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"] * 2}},
    "vibevoice_asr": {"acoustic_tokenizer_chunk_size": 3200}
    | {f"{kind}_tokenizer_encoder_config": {"num_filters": 2} for kind in ("acoustic", "semantic")},
    "xmod": {"default_language": "en_XX"},
}
UNSAID = {"head_dim": 16, "n_inner": 128}  # sizes that may be None, and then follow from others in some families


def config_of(family: str) -> transformers.PreTrainedConfig:
    """Return a tiny configuration of a family, by its model_type."""
    default = transformers.CONFIG_MAPPING[family]()
    return small(default, EXCEPTIONS.get(family, {}), tiny_copy.small_widths(default))


def small(
    default: transformers.PreTrainedConfig, exceptions: dict[str, Any], widths: tiny_copy.Widths
) -> transformers.PreTrainedConfig:
    """Return a default configuration with its sizes made small, as a decoder with a cache.

    `widths`: those of all parts of the whole model, some of which are sizes of other parts too.
    """
    content, parts = default.to_dict(), tiny_copy.parts_of(default)
    given: dict[str, Any] = {"use_cache": True} if "use_cache" in content else {}
    given |= {"is_decoder": True} if "is_decoder" in content and "is_encoder_decoder" in content else {}
    given |= {name: size for name, size in UNSAID.items() if name in content and content[name] is None}
    given |= {"num_key_value_heads": 2} if tiny_copy.is_size(content.get("num_key_value_heads"), 2) else {}
    given |= {name: value for name, value in LATENT.items() if "qk_rope_head_dim" in content and name in content}
    given |= exceptions
    for name, part in parts.items():
        given[name] = small(part, exceptions.get(name, {}), widths).to_dict()
    return tiny_copy.shrunk(default, given, widths)
