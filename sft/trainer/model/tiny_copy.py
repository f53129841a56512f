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
from typing import Any, Literal, TypeGuard

import transformers

from sft.trainer.model.chance import LEFT_TO_CHANCE

VOCABULARY = 512
LAYERS = 4
MOST_LAYERS = 12  # where a kind of layer comes once in so many
HEADS = 2
WIDTH = 128  # of a model without heads, or one as wide as it likes
TOGETHER = re.compile("mamba|ssm|lru|conv|linear_(num|key|value)")  # sizes that follow from the width and other heads
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
    (r"base_channels", 32, "least"),
    (r"vocab_size_per_layer_input", VOCABULARY, "least"),
    (r"hidden_size|n_embd|d_model|embed_dim|embedding_(size|dim)|(emb_)?dim|lru_width|.*embed_proj_dim", 64, "divide"),
    (r"attention_hidden_size|.*hidden_dim", 64, "divide"),
    (r"sliding_window(_size)?|attention_window.*|window_size|local_attention_window|.*chunk_size", 16, "least"),
    (r"(ssm_|mamba_)?(state_size|d_state)|mamba_d_state", 16, "keep"),
    (r".*max_(encoder_)?position_embeddings|n_positions|n_ctx|max_seq_len|(seq|max_sequence)_length", 512, "least"),
)  # fmt: skip
WINDOW = re.compile(r"sliding_window(_size)?|attention_window.*|window_size|local_attention_window|.*chunk_size")
PERIODS = re.compile(r".*_(period|interval|every_n_layers|frequency|group_size|pattern)")
TOKEN = re.compile(r".*_token_(id|index)")
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
# Not sizes: what transformers notes about the file itself.
ABOUT = ("architectures", "transformers_version", "_name_or_path", "model_type", "torch_dtype", "dtype")
PER_LAYER = "per_layer_config"  # sizes that differ from layer to layer, by its number
# Sizes that may be the width of another part.
LINK = re.compile(r".*(hidden|input|output)_size|.*(in|out|output|embed|projection)_dim|.*hidden_size_.*|.*width")

Content = dict[str, Any]  # of a config.json
Widths = Mapping[int, int]  # of a model's parts: their width in the copy, by their own


def divided(
    config: transformers.PreTrainedConfig, longest: int = 2**62, layers: int = 0, widths: Widths | None = None
) -> transformers.PreTrainedConfig:
    """Return a copy whose widths and heads are divided by one number, with a few layers of each kind, or `layers`.

    Windows of the attention get small, so that they show in short rows, if the `longest` row is longer than they are.
    """
    parts, content = parts_of(config), config.to_dict()
    heads, narrow, deep = ratio_of(config), narrow_of(config), layers or layers_of(content)

    def sized(name: str, value: int) -> int:
        return smaller(name, value, heads if "heads" in name else narrow, deep)

    if widths is None:
        widths = {width: smaller("hidden_size", width, narrow_of(one), deep) for width, one in widths_of(config)}
    changed = common_changes(content)
    chosen = layers_chosen(content, deep)
    for name, value in content.items():
        if name in parts:
            changed[name] = divided(parts[name], longest, layers, widths).to_dict()
        elif name in changed or (WINDOW.fullmatch(name) and is_size(value, longest)):
            continue
        elif is_size(value):
            changed[name] = sized(name, value)
        elif is_one_a_layer(value, content):
            changed[name] = [sized(name, one) if is_size(one) else one for one in at(value, chosen)]
        elif name == PER_LAYER and value:
            changed[name] = {
                str(place): {key: sized(key, one) if is_size(one) else one for key, one in layer.items()}
                for place, layer in layers_at(value, chosen)
            }
    fit_mamba_heads(content, changed)
    return made(config, changed | linked(content, widths))


def shrunk(
    config: transformers.PreTrainedConfig, given: Mapping[str, Any] | None = None, widths: Widths | None = None
) -> transformers.PreTrainedConfig:
    """Return a copy with a small value for every size that SIZES knows; `given` values take precedence."""
    parts, content, given = parts_of(config), config.to_dict(), given or {}
    if widths is None:
        widths = small_widths(config)
    changed = common_changes(content)
    chosen = layers_chosen(content, LAYERS)
    for name, value in content.items():
        if name in given:
            continue
        fitting = size_of(name)
        if name in parts:
            changed[name] = shrunk(parts[name], widths=widths).to_dict()
        elif is_one_a_layer(value, content) and len(value) > LAYERS:
            changed[name] = at(value, chosen) if fitting is None else [fitting] * LAYERS
        elif name == PER_LAYER and value:
            changed[name] = {str(place): small_layer(layer) for place, layer in layers_at(value, chosen)}
        elif is_size(value) and fitting is not None and (value > fitting or name == "vocab_size"):
            changed[name] = fitting
    fit_keys(content, changed)
    fit_sections(content, changed)
    changed |= {name: token for name, token in TOKENS.items() if name in content}
    return made(config, {**changed, **linked(content, widths), **given})


def small_layer(content: Content) -> Content:
    """Return what is said of a single layer, in small sizes."""
    changed = {name: min(size_of(name) or one, one) if is_size(one) else one for name, one in content.items()}
    fit_keys(content, changed)
    return changed


def fit_keys(content: Content, changed: Content) -> None:
    """Give a copy as many keys as queries if the model has as many: some families know no fewer."""
    heads, keys = "num_attention_heads", "num_key_value_heads"
    if is_size(content.get(heads)) and content[heads] == content.get(keys):
        changed[keys] = changed.get(heads, content[heads])


def widths_of(config: transformers.PreTrainedConfig) -> list[tuple[int, transformers.PreTrainedConfig]]:
    """Return the widths of a model's parts, that of its text last."""
    found = [(size_in(part, WIDTHS), part) for part in parts_of(config).values()]
    found = [one for part in parts_of(config).values() for one in widths_of(part)] + found
    text = config if not found else next((part for name, part in parts_of(config).items() if "text" in name), None)
    if text is not None:
        found.append((size_in(text, WIDTHS), text))
    return [(width, one) for width, one in found if width]


def small_widths(config: transformers.PreTrainedConfig) -> Widths:
    """Return which width each part of a model has in small sizes, by the width that it has now."""
    return {width: min(width, size_of("hidden_size") or width) for width, _ in widths_of(config)}


def linked(content: Content, widths: Widths) -> Content:
    """Return the sizes of a part that are the width of another one, such as that of a projector's output."""
    return {
        name: widths[value]
        for name, value in content.items()
        if is_size(value) and value in widths and LINK.fullmatch(name) and size_of(name) is None
    }


def fit_sections(content: Content, changed: Content) -> None:
    """Divide the sections of rotary embeddings, for time, height and width, as the size of a head was divided."""
    rope = changed.get("rope_parameters", content.get("rope_parameters"))
    before, after = head_of(content), head_of(content | changed)
    for name in ("mrope_section", "xdrope_section"):
        if before and after and isinstance(rope, dict) and isinstance(sections := rope.get(name), list) and sections:
            small = [max(1, section * after // before) for section in sections]
            small[0] += round(sum(sections) * after / before) - sum(small)
            changed["rope_parameters"] = rope | {name: small}


def head_of(content: Content) -> int:
    """Return the size of a head, 0 if it is not known."""
    size, width, heads = (content.get(name) for name in ("head_dim", "hidden_size", "num_attention_heads"))
    if is_size(size):
        return size
    return width // heads if is_size(width) and is_size(heads) else 0


def fit_mamba_heads(content: Content, changed: Content) -> None:
    """Fit the size of a Mamba head where there are too few heads to divide their number."""
    heads, width, wider = (changed.get(name) for name in ("n_mamba_heads", "hidden_size", "mamba_expand"))
    if "mamba_headdim" in content and is_size(heads) and is_size(width) and is_size(wider):
        changed["mamba_headdim"] = width * wider // heads


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
        name: 0.0 for name, value in content.items() if LEFT_TO_CHANCE.fullmatch(name) and isinstance(value, float)
    }
    beyond = [name for name, value in content.items() if TOKEN.fullmatch(name) and is_size(value, VOCABULARY)]
    return changed | {name: VOCABULARY - 1 - place for place, name in enumerate(beyond)}


def parts_of(config: transformers.PreTrainedConfig) -> dict[str, transformers.PreTrainedConfig]:
    """Return the configurations inside one, such as that of a multimodal model's text."""
    return {name: value for name, value in vars(config).items() if isinstance(value, transformers.PreTrainedConfig)}


def is_size(value: object, at_least: int = 1) -> TypeGuard[int]:
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


def narrow_of(config: transformers.PreTrainedConfig) -> Fraction:
    """Return what to multiply widths with: with less than heads, if the heads together are not as wide as the model.

    Gemma has a few heads of 256: half of them would leave the model half as wide.
    """
    ratio, width = ratio_of(config), size_in(config, WIDTHS)
    sizes = [size_in(config, (name,)) for name in ("num_attention_heads", "head_dim")]
    hangs_together = any(TOGETHER.match(name) for name in config.to_dict())
    if not all(sizes) or math.prod(sizes) == width or hangs_together:
        return ratio
    return min(ratio, Fraction(WIDTH, width)) if width > WIDTH else ratio


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


def layers_chosen(content: Content, layers: int) -> list[int]:
    """Return the numbers of `layers` layers: the first ones, and one of each other kind at the end."""
    lists = [value for value in content.values() if is_one_a_layer(value, content)]
    deep = len(lists[0]) if lists else 0
    kinds = [str([one[place] for one in lists if not are_layers(one)]) for place in range(deep)]
    others = [kind for kind in dict.fromkeys(kinds) if kind not in kinds[:layers]]
    kept = list(range(min(layers - len(others), deep))) if len(others) < layers else []
    return kept + [kinds.index(kind) for kind in others][: layers - len(kept)] if lists else list(range(layers))


def are_layers(values: list[Any]) -> bool:
    """Tell whether the values for each layer are numbers of layers, its own or an earlier one."""
    return all(isinstance(one, int) and one <= place for place, one in enumerate(values)) and max(values) > 1


def at(values: list[Any], chosen: list[int]) -> list[Any]:
    """Return the values of the chosen layers; if they are numbers of layers, their new ones."""
    if not are_layers(values):
        return [values[place] for place in chosen]
    return [chosen.index(values[place]) if values[place] in chosen else new for new, place in enumerate(chosen)]


def layers_at(values: Mapping[Any, Content], chosen: list[int]) -> list[tuple[int, Content]]:
    """Return what is said of single layers among the chosen ones, by their new numbers."""
    by_number = {int(place): said for place, said in values.items()}
    return [(new, by_number[place]) for new, place in enumerate(chosen) if place in by_number]
