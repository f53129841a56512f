"""Try the chunked loss and packed sequences on this model, and use them only if they are right."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from sft.trainer import attention, distributed
from sft.trainer.batching import collate
from sft.trainer.data.rows import Row
from sft.trainer.distributed import World
from sft.trainer.loss import TargetLoss, evaluating

TESTED = 10  # tokens at the end of a sequence whose loss is compared
MIXERS = (AssertionError, AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError)


def take_fast_paths(module: torch.nn.Module, packing: bool, world: World, longest: int = 0) -> bool:
    """Try the chunked loss and packing on this model, and keep what is right (all ranks). Return whether to pack.

    A model family may do more to its logits than its head does (scale them, cap them), or mix sequences in other places
    than in the attention (convolutions, states). No list of names is complete, so the model itself is tried: a short
    sequence must have the loss that the model's own logits give, both alone and packed behind another sequence, and
    this loss must not change if that other sequence does. Windows and chunks of the attention only show in sequences
    that are longer: so one as long as the `longest` row must have the same loss packed too. `module` is a TargetLoss or
    an engine around one.
    """
    target_loss = getattr(module, "module", module)
    assert isinstance(target_loss, TargetLoss)
    model = target_loss.model
    first, other, tested = (np.arange(*span, dtype=np.int32) for span in ((2, 9), (11, 18), (3, 3 + TESTED)))
    long = 3 + np.arange(max(longest, TESTED), dtype=np.int32) % 97

    def loss(*before: npt.NDArray[np.int32], packed: bool, of: npt.NDArray[np.int32] = tested) -> float:
        sequences: list[Row] = [(ids, np.zeros(len(ids), dtype=np.bool_)) for ids in before]  # without targets
        sequences.append((of, np.arange(len(of)) >= len(of) - TESTED))
        return module(*collate(sequences, packed, world.device)).item()

    with evaluating(module):
        # Every forward pass here is collective under ZeRO-3, and all ranks decide together (`same`).
        head_loss, target_loss.head_loss = target_loss.head_loss, None
        model.set_attn_implementation(target_loss.own_attention)
        own = loss(packed=False)  # by the model's own logits and attention
        tolerance = 1e-4 if model.dtype == torch.float32 else 1e-2
        target_loss.head_loss = head_loss
        if head_loss is not None and not same(own, loss(packed=False), tolerance, world):
            warn(model, "changes its logits after the head: no chunked loss", world)
            target_loss.head_loss = None
        if not packing:
            return False
        own_long = loss(packed=False, of=long)
        try:
            model.set_attn_implementation(attention.IMPLEMENTATION)
            behind, behind_other = loss(first, packed=True), loss(other, packed=True)
            behind_long = loss(first, packed=True, of=long)
            if (
                same(own, behind, tolerance, world)
                and same(behind, behind_other, 1e-6, world)
                and same(own_long, behind_long, tolerance, world)
            ):
                return True
        except MIXERS:
            pass  # every rank has the same model, so all of them get here
        warn(model, "cannot keep packed sequences apart: training on padded ones", world)
        model.set_attn_implementation(target_loss.own_attention)
        return False


def same(left: float, right: float, tolerance: float, world: World) -> bool:
    """Tell whether two numbers are equal up to a relative tolerance on every rank (all ranks)."""
    return distributed.total([abs(left - right) > tolerance * abs(left)], world) == [0.0]


def warn(model: torch.nn.Module, what: str, world: World) -> None:
    """Print which fast path this model cannot use (rank 0)."""
    if world.is_main:
        print(f"{type(model).__name__} {what}", flush=True)
