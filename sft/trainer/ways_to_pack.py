"""Try how a model's sequences can be packed: they must not see each other, and give what they give alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import transformers

from sft.trainer import attention, unpacked_layers
from sft.trainer.causes import is_not_the_models
from sft.trainer.logits import REPEATS, Trial, difference, long_sequence, most
from sft.trainer.loss import TargetLoss
from sft.trainer.model import experts

CAUSAL = 2e-6  # share of their spread by which logits may change with nothing changed but a token behind
EXPERTS_CAUSAL = 5e-4  # the token behind may share a product with others, in a shape that is computed in another order
TOGETHER = 512  # tokens, at least: attention over compressed keys (DeepSeek-V4) sees others from 128 on, however short
OTHERS_BEHIND = ((6, 41), (9, 33), (12, 28))  # pairs of tokens
SHARE_EXPERTS = 0.3  # the same of most tokens, if one may go to another expert in some layer


class Way(NamedTuple):
    """A way to pack sequences."""

    attention: str  # its name for transformers
    unpacks: bool  # layers that mix tokens
    gives_positions: bool  # to the model, which counts them itself otherwise


WAYS = (  # the fastest first
    Way(attention.IMPLEMENTATION, unpacks=False, gives_positions=True),
    Way(attention.IMPLEMENTATION, unpacks=True, gives_positions=True),
    Way(unpacked_layers.MASKED_IMPLEMENTATION, unpacks=True, gives_positions=True),
    Way(unpacked_layers.MASKED_IMPLEMENTATION, unpacks=True, gives_positions=False),
)


def can_pack(
    trial: Trial, tested: npt.NDArray[np.int32], plain: torch.Tensor, longest: int, most_tokens: int = 0
) -> bool:
    """Tell whether there is a way to pack this model's sequences, and leave the model in it; otherwise as it was.

    `most_tokens`: of a micro-step. So many are tried together where a table of the model ends before them.
    """
    least = most_tokens if any(TOGETHER <= size < most_tokens for size in tables(trial.model)) else TOGETHER
    for way in WAYS:
        unpacked_layers.set_attention(trial.model, way.attention)
        trial.target_loss.gives_positions = way.gives_positions
        unpacks = way.unpacks and bool(layers_that_mix(trial, longest, least))
        if way.unpacks == unpacks and keeps_apart(trial, tested, plain, longest, least, way):
            if padded := unpacked_layers.of(trial.model):
                names = ", ".join(sorted({type(layer.module).__name__ for layer in padded}))
                trial.leave_out(f"mixes packed rows in {len(padded)} layers ({names}): these alone get padded rows")
            return True
        end_packing(trial.target_loss)
    return False


def tables(model: transformers.PreTrainedModel) -> Iterator[int]:
    """Yield the sizes of what a model may look its tokens' places up in: buffers, and embeddings but that of ids."""
    ids: Any = None
    with contextlib.suppress(NotImplementedError):  # a family that does not say which it is
        ids = model.get_input_embeddings()
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) and module is not ids:
            yield module.num_embeddings
    for buffer in model.buffers():
        yield from buffer.shape


def end_packing(target_loss: TargetLoss) -> None:
    """Make the model again what it was before packing: it takes padded sequences, and generates."""
    target_loss.gives_positions = True
    unpacked_layers.undo(target_loss.model, target_loss.own_attention)


def layers_that_mix(trial: Trial, longest: int, least: int) -> list[unpacked_layers.Layer]:
    """Return the layers that mix the tokens of packed sequences, which are computed on padded batches from now on."""
    short = [np.arange(first, first + tokens, dtype=np.int32) for first, tokens in ((2, 5), (9, 7), (20, 4), (30, 9))]
    try:
        return unpacked_layers.find(trial.model, lambda: trial.logits(*together(longest, least), *short, packed=True))
    except Exception as error:  # of any kind: the code of a model family
        if is_not_the_models(error):
            raise
        return []


def together(longest: int, least: int) -> list[npt.NDArray[np.int32]]:
    """Return different sequences as long as the longest row, of `least` tokens together."""
    long = long_sequence(longest)
    return [np.roll(long, i) for i in range(-(-least // len(long)))]


def keeps_apart(
    trial: Trial, tested: npt.NDArray[np.int32], plain: torch.Tensor, longest: int, least: int, way: Way
) -> bool:
    """Tell whether packed sequences do not see each other, and give what they give alone."""
    one, other = (np.arange(*span, dtype=np.int32) for span in ((2, 9), (11, 18)))
    long = long_sequence(longest)
    many = [*together(longest, least), one, long[: len(long) // 2 + 1], other, long[: len(long) // 3 + 1], one]

    def behind(of: npt.NDArray[np.int32], *before: npt.NDArray[np.int32]) -> torch.Tensor:
        return trial.logits(of, *before, packed=True)

    try:
        first, again, changed = behind(tested, one), behind(tested, one), behind(tested, other)
        long_one, last_of_many = behind(long, one), behind(tested, *many)
        behind_it = trial.changed_by_what_follows(tested, one)
    except Exception as error:  # of any kind: what a kernel says to a family that it does not fit
        if is_not_the_models(error):
            raise
        return False
    neighbour = max(trial.same_sums, REPEATS * difference(first, again))
    unpacked_layers.set_attention(trial.model, trial.target_loss.own_attention)
    alone, reordered = trial.logits(long), own_in_a_batch(trial, tested, long)
    own_behind_it = trial.changed_by_what_follows(tested)  # not 0 with experts
    unpacked_layers.set_attention(trial.model, way.attention)
    pairs = [(first, plain), (last_of_many, plain), (long_one, alone)]
    # Attention that a family writes out sees every token if it gets no mask. In a model that has learnt little this
    # changes the logits by less than rounding does, so the same sums are compared here.
    has_experts = experts.are_in(trial.model)
    repeated = max(difference(first, again), own_behind_it, EXPERTS_CAUSAL if has_experts else CAUSAL)
    if not trial.agree([behind_it <= REPEATS * repeated]):
        # A leak shows with every token behind. Experts may be rounded otherwise with one, but hardly with each.
        others = OTHERS_BEHIND if has_experts else ()
        if not any(
            trial.agree([trial.changed_by_what_follows(tested, one, tokens=two) <= REPEATS * repeated])
            for two in others
        ):
            return False
    by_neighbour = difference(changed, first)
    if trial.agree([by_neighbour <= neighbour, *(difference(*pair) <= trial.share for pair in pairs)]):
        return True
    unpacked_layers.set_attention(trial.model, trial.target_loss.own_attention)
    share = trial.allowed((tested, plain), (long, alone))
    unpacked_layers.set_attention(trial.model, way.attention)
    if trial.agree([by_neighbour <= neighbour, *(difference(*pair) <= share for pair in pairs)]):
        return True
    if reordered is None or not has_experts:
        return False
    if not way.unpacks and layers_that_mix(trial, longest, least):
        return False
    # Each layer is right by itself, and most tokens are; others may have gone to another expert, chosen by a hair.
    noise = max(SHARE_EXPERTS, 2 * most(reordered, plain))
    return trial.agree([most(left, right) <= noise for left, right in [*pairs, (changed, first)]])


def own_in_a_batch(trial: Trial, tested: npt.NDArray[np.int32], other: npt.NDArray[np.int32]) -> torch.Tensor | None:
    """Return the logits of the model's own attention in a padded batch: the same sums in another order.

    None: the model cannot be padded, or computes in fp32, where the order changes little.
    """
    if trial.model.dtype == torch.float32:
        return None
    try:
        return trial.logits(tested, other)
    except Exception as error:  # of any kind: the code of a model family
        if is_not_the_models(error):
            raise
        return None
