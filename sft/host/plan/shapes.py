"""The shape of a model, from its `config.json`: all that the plan needs to know, without torch or transformers.

Families of models give the same few sizes different names: those of transformers' own attribute maps. Weights are
counted in the model's own files, if they are there. Otherwise they follow from the sizes, as activations do, for
decoders of attention and a (gated) feed-forward network; in a mixture of experts every expert's weights count. Of other
layers (state-space, hybrid) such a plan is a guess, and `Shape.doubt` says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sft import model_files
from sft.errors import UserError
from sft.host.plan import counted
from sft.host.plan.counted import Counted, Sizes
from sft.host.plan.mixers import ATTENTION_ONLY, Mixers, mixers
from sft.model_files import Config

UNGATED = {"gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "bloom", "falcon", "phi", "starcoder2"}  # two matrices, not 3
# Sizes by all their names in transformers' families, the more special ones first.
NAMES: dict[str, tuple[str, ...]] = {
    "hidden": ("hidden_size", "n_embd", "d_model", "embed_dim", "n_embed", "emb_dim", "dim"),
    "layers": (
        "num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers",
        "layers_block_type", "layer_types", "hybrid_override_pattern",
    ),
    "heads": (
        "num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "attention_heads",
    ),
    "key heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "experts per token": (
        "num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k", "top_k_experts",
    ),
    "expert": ("moe_intermediate_size", "expert_ffn_hidden_size", "expert_ffn_dim"),
    "intermediate": (
        "intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "ffn_hidden_size", "d_ff", "dff", "dim_ff",
    ),
    "dense layers": ("first_k_dense_replace", "num_dense_layers"),
    "positions": ("n_positions", "n_ctx", "max_position_embeddings"),
    "vocabulary": ("vocab_size",),
}  # fmt: skip
LAYER_KINDS = ("layers_block_type", "layer_types", "hybrid_override_pattern")  # one entry, or one letter, a layer
# Families whose head is the embedding where config.json says nothing: files of older versions left out what was usual.
TIED = (
    "gpt2", "opt", "gemma", "gemma2", "gemma3_text", "bloom", "falcon", "gpt_neo", "gpt_bigcode", "mpt", "xglm",
    "mamba", "falcon_mamba", "openai-gpt", "ctrl", "codegen", "cohere", "biogpt",
)  # fmt: skip
LEARNT_POSITIONS = ("gpt2", "gpt_neo", "opt", "openai-gpt", "gpt_bigcode", "biogpt")
STATE_SPACE = (
    "state_size",
    "mamba_d_state",
    "ssm_state_size",
    "mamba_expand",
    "linear_num_value_heads",
    "conv_L_cache",
)
UNCOUNTED = "its parts for other inputs than text are not counted"
NORMS_ON_BOTH_SIDES = (  # of attention and of the feed-forward network
    "gemma2", "gemma3", "gemma3_text", "gemma3n_text", "gemma4", "gemma4_text", "glm4", "afmoe",
)  # fmt: skip
NORMED_HEADS = ("qwen3", "gemma3", "gemma4")
DROPOUTS = ("resid_pdrop", "hidden_dropout", "residual_dropout", "resid_dropout", "dropout")
# Families whose norms and feed-forward network Liger's kernels compute (liger-kernel 0.8).
FUSED = (
    "llama", "mistral", "ministral", "mixtral", "phi3", "qwen2", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_5",
    "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text", "qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text",
    "qwen3_vl", "qwen3_vl_text", "qwen3_vl_moe", "qwen3_vl_moe_text", "gemma", "gemma2", "gemma3", "gemma3_text",
    "gemma4", "gemma4_text", "glm4", "glm4v", "glm4v_moe", "gpt_oss", "granite", "llama4", "llama4_text", "llava",
    "internvl", "mllama", "mllama_text_model", "olmo2", "olmo3", "smollm3", "falcon_h1", "hunyuan_v1_dense",
    "hunyuan_v1_moe", "exaone4", "deepseek_v2", "deepseek_v3", "deepseek_v4", "paligemma", "pixtral",
)  # fmt: skip
CHANGE_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes. `source` says where they come from."""

    source: str
    layers: int
    hidden: int
    intermediate: int
    queries: int  # elements of all query heads of a token
    keys: int  # elements of all key heads of a token, as many as of all value heads
    vocabulary: int
    tied: bool
    gated: bool = True
    experts: int = 1
    experts_per_token: int = 1
    head_norms: int = 0  # elements of norms on query and key heads (Qwen3)
    biases: int = 0  # elements of a layer's biases
    norms: int = 2  # of a layer
    positions: int = 0  # learnt position embeddings
    whole_logits: bool = False  # scaled or capped after the head, so the loss has no chunks (sft/trainer/loss.py)
    latent: int = 0  # weights of a layer's attention over latents (DeepSeek), instead of the four matrices
    shared: int = 0  # elements of experts that work on every token
    dense_layers: int = 0  # of a mixture of experts, without experts ...
    dense_intermediate: int = 0  # ... but with one wider feed-forward network
    doubt: str = ""  # why the numbers are a guess; "" if they are not
    counted: Counted | None = None  # the weights, in the model's own files
    mixers: Mixers = ATTENTION_ONLY  # layers that are not attention
    activation: str = ""  # of the feed-forward network, by transformers' name
    dropout: bool = False  # after attention and the feed-forward network
    has_kernels: bool = True  # Liger knows its norms
    has_feed_forward_kernel: bool = True  # ... and its feed-forward network

    @property
    def attention_weights(self) -> int:
        """Weights of a layer's four attention matrices."""
        return self.latent or 2 * self.hidden * (self.queries + self.keys)

    @property
    def feed_forward_weights(self) -> int:
        """Weights of one feed-forward network's matrices."""
        return (3 if self.gated else 2) * self.hidden * self.intermediate

    @property
    def layer_weights(self) -> int:
        router = self.experts * self.hidden if self.experts > 1 else 0
        return (
            self.attention_weights
            + self.experts * self.feed_forward_weights
            + self.shared_weights
            + self.small
            + router
        )

    @property
    def is_biased(self) -> bool:
        """Whether norms have biases too: then `norms` counts each twice."""
        return self.biases > 0 and not self.gated

    @property
    def small(self) -> int:
        """Weights of a layer's norms and biases."""
        return self.norms * self.hidden + self.head_norms + self.biases

    @property
    def shared_weights(self) -> int:
        """Weights of a layer's experts that work on every token."""
        return (3 if self.gated else 2) * self.hidden * self.shared

    @property
    def dense_weights(self) -> int:
        """Weights of a layer without experts, in a mixture of experts."""
        return self.attention_weights + (3 if self.gated else 2) * self.hidden * self.dense_intermediate + self.small

    @property
    def head_weights(self) -> int:
        """Weights of the output head, and as many of the embedding."""
        return self.vocabulary * self.hidden

    @property
    def weights(self) -> int:
        """All weights, those of parts for other inputs than text too; a head that is the embedding counts once."""
        return self.counted.language + self.counted.frozen if self.counted else self.language_weights

    @property
    def language_weights(self) -> int:
        """The weights that training changes, unless it trains an adapter."""
        if self.counted:
            return self.counted.language
        ends = self.head_weights * (1 if self.tied else 2) + self.positions * self.hidden
        layers = (self.layers - self.dense_layers) * self.layer_weights + self.dense_layers * self.dense_weights
        return layers + ends + (2 if self.is_biased else 1) * self.hidden

    @property
    def largest_layer(self) -> int:
        """Weights of the largest layer."""
        return self.counted.layer if self.counted else self.layer_weights

    @property
    def largest_tensor(self) -> int:
        """Weights of the largest tensor: the head, or the first matrices of all experts of a layer, stacked."""
        stacked = self.feed_forward_weights * self.experts * 2 // 3 if self.experts > 1 else 0
        return max(self.head_weights, stacked)

    @property
    def expert_share(self) -> float:
        """The share of all weights that are in experts."""
        if self.counted:
            return self.counted.experts / max(1, self.weights)
        stacked = (self.layers - self.dense_layers) * self.experts * self.feed_forward_weights
        return stacked / self.weights if self.experts > 1 else 0.0

    @property
    def matrix_weights(self) -> int:
        """Weights of all layers that one token is multiplied with."""
        if self.counted:
            return self.counted.linear + round(self.counted.experts * self.experts_per_token / max(1, self.experts))
        active = self.attention_weights + self.experts_per_token * self.feed_forward_weights + self.shared_weights
        return self.layers * active

    @property
    def linear_weights(self) -> int:
        """Weights of all layers that can be quantised: those of linear modules, which stacked experts are not."""
        if self.counted:
            return self.counted.linear
        return self.layers * (self.attention_weights + self.feed_forward_weights * (self.experts == 1))

    def lora_weights(self, rank: int) -> int:
        """Weights of adapters of this rank on every matrix of the layers. Stacked experts have none."""
        if self.counted:
            return rank * self.counted.sides
        pairs = (self.hidden + self.queries) * 2 + (self.hidden + self.keys) * 2
        wide = self.intermediate if self.experts == 1 else self.shared
        feed_forward = (3 if self.gated else 2) * (self.hidden + wide) * (wide > 0)
        return rank * self.layers * (pairs + feed_forward)

    def expert_lora_weights(self, rank: int) -> int:
        """Weights of adapters of this rank on the experts: on each expert's matrices before and after its middle."""
        before, after = self.hidden + (2 if self.gated else 1) * self.intermediate, self.intermediate + self.hidden
        return rank * (self.layers - self.dense_layers) * self.experts * (before + after) if self.experts > 1 else 0

    @property
    def expert_layer_weights(self) -> int:
        """Weights of all experts of one layer."""
        return self.experts * self.feed_forward_weights if self.experts > 1 else 0

    @classmethod
    def of(cls, config: Config, source: str) -> Shape:
        """Return the shape that a config.json describes. Raises UserError if it lacks a size."""
        whole, config = config, model_files.language_part(config)

        def size(what: str, default: int = 0) -> int:
            for name in NAMES.get(what, (what,)):
                value = config.get(name)
                if isinstance(value, list) and value and all(type(one) is int for one in value):
                    value = max(value)  # one for each layer
                if name in LAYER_KINDS and isinstance(value, list | str):
                    value = len(value)
                if type(value) is int and value > 0:
                    return value
            return default

        missing = [what for what in ("hidden", "layers", "vocabulary") if not size(what)]
        if missing:
            raise UserError(f"{source}: has no {NAMES[missing[0]][0]}; give the config.json of a causal language model")
        family = str(config.get("model_type", ""))
        hidden, heads = size("hidden"), size("heads")
        head_size = size("head_dim", hidden // max(1, heads))
        attention = size("attention_hidden_size", heads * head_size) if family == "rwkv" else heads * head_size
        keys = size("key heads", heads) * head_size if family != "rwkv" else attention
        if config.get("multi_query") and not config.get("new_decoder_architecture"):
            keys = head_size
        experts = size("experts", 1)
        inner = size("expand", 4) * hidden if family in ("mamba", "mamba2", "falcon_mamba") else 4 * hidden
        dense = size("intermediate", inner)
        intermediate = size("expert", dense) if experts > 1 else dense
        biases = 0
        if family == "qwen2" or config.get("attention_bias"):
            biases = attention + 2 * keys + (hidden if config.get("attention_bias") else 0)
        norms = 4 if family in NORMS_ON_BOTH_SIDES else 2
        if family in ("gpt2", "opt"):  # biases everywhere, in the norms too
            biases, norms = attention + 2 * keys + 2 * hidden + intermediate, 4
        shared = size("shared_expert_intermediate_size") or intermediate * size("n_shared_experts") * (experts > 1)
        return cls(
            source=source,
            layers=size("layers"),
            hidden=hidden,
            intermediate=intermediate,
            queries=attention,
            keys=keys,
            vocabulary=size("vocabulary"),
            tied=bool(config.get("tie_word_embeddings", whole.get("tie_word_embeddings", family in TIED))),
            gated=family not in UNGATED,
            experts=experts,
            experts_per_token=size("experts per token", 1),
            head_norms=attention + keys if "olmo" in family else 2 * head_size * family.startswith(NORMED_HEADS),
            biases=biases,
            norms=norms,
            positions=size("positions") if family in LEARNT_POSITIONS else 0,
            whole_logits=any(config.get(name) not in (None, 1, 1.0) for name in CHANGE_LOGITS),
            latent=latent_weights(size, hidden, heads),
            shared=shared,
            dense_layers=size("dense layers") if experts > 1 else 0,
            dense_intermediate=dense,
            doubt=doubt(whole, config, heads),
            mixers=mixers(config, size, size("layers"), hidden),
            activation=str(config.get("hidden_act") or config.get("activation_function") or ""),
            dropout=any(isinstance(config.get(name), float) and config.get(name) for name in DROPOUTS),
            has_kernels=family in ("", *FUSED),
            has_feed_forward_kernel=family in ("", *FUSED) and experts == 1,  # experts have grouped products instead
        )

    def with_weights(self, sizes: Sizes) -> Shape:
        """Return the shape with its weights counted, by the shapes of the model's tensors."""
        found = counted.count(sizes, self.layers, self.tied)
        doubt = "" if self.doubt == UNCOUNTED else self.doubt
        return replace(self, counted=found, tied=not found.has_head, doubt=doubt)


def latent_weights(size: Callable[[str], int], hidden: int, heads: int) -> int:
    """Return the weights of a layer's attention whose keys and values are made of a small latent; 0 without one."""
    rank, query_rank = size("kv_lora_rank"), size("q_lora_rank")
    if not rank:
        return 0
    apart, rotated, value = size("qk_nope_head_dim"), size("qk_rope_head_dim"), size("v_head_dim")
    queries = heads * (apart + rotated)
    query_weights = query_rank * (hidden + queries) if query_rank else hidden * queries
    return query_weights + hidden * (rank + rotated) + rank * heads * (apart + value) + heads * value * hidden


def doubt(whole: Config, text: Config, heads: int) -> str:
    """Return why the plan's numbers for a model are a guess, or ""."""
    if not heads:
        return "it has no attention heads"
    if any(name in text for name in STATE_SPACE):
        return "some of its layers are not attention"
    if "vision_config" in whole or "audio_config" in whole:
        return UNCOUNTED
    return ""


def read(path: Path) -> Shape:
    """Return the shape in a config.json. Raises UserError if it holds none."""
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the config.json of a model") from None
    except ValueError:
        raise UserError(f"{path}: is not valid JSON; give the config.json of a model") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: does not hold a JSON object; give the config.json of a model")
    shape = Shape.of(config, str(path))
    sizes = counted.sizes_in(path.parent)
    return shape.with_weights(sizes) if sizes else shape


def name_of(path: Path) -> str:
    """Return a model's name by the path of its config.json: in the hub's cache, else the folder's, else the file's."""
    for folder in path.absolute().parents:
        if folder.name.startswith("models--"):
            return folder.name.removeprefix("models--").replace("--", "/")
    return path.absolute().parent.name if path.name == "config.json" else path.stem
