"""A model's weights, counted in the headers of its safetensors files: exact for every family, and quick."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sft import stored_weights

Sizes = Mapping[str, tuple[int, ...]]  # the shape of every tensor, by its name

# Tensors that are not trained: masks and rotary frequencies that older versions of transformers stored, decays of
# MiniMax, codebooks of codecs.
BUFFERS = re.compile(
    r"(^|\.)(attn\.(masked_)?bias|attention\.(masked_)?bias|.*inv_freq|position_ids|token_type_ids"
    r"|(query|key|diagonal)_decay|slope_rate|codebook\.(embed_sum|cluster_usage|initialized))$"
)
# Parts for other inputs than text, by the names that families give them.
TOWER = re.compile(
    r"(^|\.)(vision\w*|visual|audio\w*|image_\w+|img_\w+|speech\w*|mm_projector|multi_modal_projector|embed_vision"
    r"|embed_audio|connector|perceiver\w*|vqmodel)\."
)
ENCODER, DECODER = re.compile(r"(^|\.)encoder\."), re.compile(r"(^|\.)decoder\.layers\.")
NEXT_TOKENS = re.compile(r"(^|\.)(mtp|nextn)\w*\.")  # heads that predict further tokens; transformers leaves them out
LAYER = re.compile(r"(^|\.)(layers|h|blocks|block|layer)\.(\d+)\.")
EXPERT = re.compile(r"(^|\.)experts\.")
STACKED = 3  # dimensions of a tensor of experts: one matrix for each
EMBEDDING = re.compile(r"(^|\.)(\w*embed\w*|wte|wpe)\.weight$")
HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output_projection)\.weight$")


@dataclass(frozen=True)
class Counted:
    """Numbers of weights. `frozen`: in parts for other inputs than text; all others are the language model's."""

    language: int
    frozen: int = 0
    experts: int = 0  # of the language model's, those in experts
    linear: int = 0  # in the layers' matrices, experts apart
    sides: int = 0  # rows and columns of these matrices, added up: a LoRA adapter of rank 1 has so many weights
    layer: int = 0  # of the largest layer
    has_head: bool = False  # which is not the embedding


def count(sizes: Sizes, layers: int, tied: bool) -> Counted:
    """Count weights by the tensors' names.

    `layers`: as many as the model has; files may hold more, which predict further tokens. `tied`: the head is the
    embedding, even if the files hold it twice.
    """
    kept = {name: size for name, size in sizes.items() if is_loaded(name, sizes, layers, tied)}
    towers = {name for name in kept if TOWER.search(name)}
    text = {name: size for name, size in kept.items() if name not in towers}
    stacked = {name for name, size in text.items() if is_of_experts(name, size)}
    matrices = {name: size for name, size in text.items() if name not in stacked and is_matrix(name, size)}
    of_layer: dict[int, int] = {}
    for name, size in text.items():
        if (index := layer_of(name)) is not None:
            of_layer[index] = of_layer.get(index, 0) + math.prod(size)
    return Counted(
        language=total(text),
        frozen=total({name: kept[name] for name in towers}),
        experts=total({name: text[name] for name in stacked}),
        linear=total(matrices),
        sides=sum(map(sum, matrices.values())),
        layer=max(of_layer.values(), default=0),
        has_head=any(HEAD.search(name) for name in text),
    )


def total(sizes: Sizes) -> int:
    """Return the number of elements in tensors."""
    return sum(map(math.prod, sizes.values()))


def is_loaded(name: str, sizes: Sizes, layers: int, tied: bool) -> bool:
    """Tell whether a stored tensor becomes a weight of the causal language model."""
    if BUFFERS.search(name) or NEXT_TOKENS.search(name) or (tied and HEAD.search(name)):
        return False
    if TOWER.search(name):
        return True
    if ENCODER.search(name) and any(DECODER.search(other) for other in sizes):
        return False
    index = layer_of(name)
    return index is None or index < layers or not layers


def layer_of(name: str) -> int | None:
    """Return the number of the layer that a tensor belongs to, or None."""
    found = LAYER.search(name)
    return int(found.group(3)) if found else None


def is_of_experts(name: str, size: tuple[int, ...]) -> bool:
    """Tell whether a tensor belongs to experts: to one of them, or to all, stacked."""
    return bool(EXPERT.search(name)) or (len(size) == STACKED and "conv" not in name and layer_of(name) is not None)


def is_matrix(name: str, size: tuple[int, ...]) -> bool:
    """Tell whether a tensor is the matrix of a linear layer, other than the head."""
    return len(size) == 2 and name.endswith(".weight") and layer_of(name) is not None and not EMBEDDING.search(name)


def sizes_in(folder: Path) -> Sizes | None:
    """Return the shapes of all tensors in a model's folder, or None if its safetensors files are not all there."""
    sizes: dict[str, tuple[int, ...]] = {}
    for name in stored_weights.weight_files(folder):
        try:
            tensors, _ = stored_weights.header(folder / name)
        except (OSError, stored_weights.BadHeader):
            return None
        sizes |= {tensor: stored.shape for tensor, stored in tensors.items()}
    return sizes or None
