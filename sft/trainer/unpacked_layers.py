"""Layers that mix the tokens of packed sequences: they alone are computed on padded batches, everything else packed.

Convolutions, state spaces and linear attention carry something from token to token; learnt positions count from the
first token of a tensor; attention that a family writes out itself needs a mask. There is no list of such layers: in one
forward pass every layer is computed both ways, packed and padded, and those that give something else are noted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import transformers
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from transformers.masking_utils import AttentionMaskInterface

from sft.trainer import attention, packed
from sft.trainer.causes import is_not_the_models
from sft.trainer.model import implementation
from sft.trainer.model.parts import decoder_layers
from sft.trainer.packed import Groups, Packed

# Two ways to compute the same sums differ by less than this share of a token's output.
SHARE = {torch.float32: 1e-4}
SHARE_ROUNDED = 0.02  # bf16 and fp16
MASKED = 4096  # tokens of the longest sequence for masks, which take memory for each pair


class Layer:
    """A layer whose forward pass may be computed on padded batches."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.forward, self.is_of_instance = module, module.forward, "forward" in vars(module)
        functools.update_wrapper(self, module.forward)
        self.mixes = False  # tokens of different sequences, or their positions
        self.repeats = False  # what belongs to every sequence, for each of them
        self.is_tried = True
        module.forward = self

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # each micro-batch has other groups of other shapes
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the layer."""
        sequences = packed.noted()
        if sequences is None:  # padded, or inside another such layer
            return self.forward(*args, **kwargs)
        if self.is_tried:
            return self.tried(sequences, args, kwargs)
        return self.unpacked(sequences, args, kwargs) if self.mixes else self.forward(*args, **kwargs)

    def tried(self, sequences: Packed, args: Any, kwargs: Any) -> Any:
        """Compute the layer both ways, and note whether they differ."""
        try:
            plain, error = self.forward(*args, **kwargs), None
        except Exception as found:  # of any kind: the code of a model family
            if is_not_the_models(found):
                raise
            plain, error = None, found
        for repeats in (False, True):
            self.repeats = repeats
            try:
                apart = self.unpacked(sequences, args, kwargs)
            except Exception as found:  # a layer that does not take padded batches
                if is_not_the_models(found):
                    raise
                continue
            if error is None and not differs(plain, apart, sequences):
                return plain
            self.mixes = True
            return apart
        if error is not None:
            raise error
        return plain

    def unpacked(self, sequences: Packed, args: Any, kwargs: Any) -> Any:
        """Compute the layer on padded batches, and pack its results."""
        # If ZeRO-3 gathers its weights one by one, all ranks have to compute it equally often.
        groups = sequences.together if is_sharded(self.module) else sequences.by_length
        packed.note(None)
        try:
            results = []
            for group in range(len(groups.places)):
                view = Unpacked(sequences, groups, group, self.repeats)
                results.append(self.forward(*view.of(args), **view.of(kwargs)))
        finally:
            packed.note(sequences)
        return merged(results, groups)

    def remove(self) -> None:
        """Give the layer its own forward pass back."""
        if self.is_of_instance:
            self.module.forward = self.forward
        else:
            del self.module.forward


class Unpacked:
    """The arguments of a layer for a group of sequences, as a padded batch."""

    def __init__(self, sequences: Packed, groups: Groups, group: int, repeats: bool) -> None:
        self.groups, self.group, self.repeats = groups, group, repeats
        self.tokens, self.longest_of_all = sequences.tokens, sequences.longest
        self.rows, self.longest = groups.places[group].shape

    def of(self, value: Any) -> Any:
        """Return an argument, or what is in it, as a padded batch."""
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        if isinstance(value, tuple) and all(type(part) is int for part in value) and value[:2] == (1, self.tokens):
            return (self.rows, self.longest, *value[2:])  # a shape
        if isinstance(value, (tuple, list)):
            return type(value)(map(self.of, value)) if type(value) in (tuple, list) else value
        if type(value) is dict:
            return {name: self.of(part) for name, part in value.items()}
        return None if isinstance(value, Packed) else value

    def tensor(self, value: torch.Tensor) -> torch.Tensor:
        """Return a tensor as a padded batch, if it is one of tokens."""
        shape, tokens = tuple(value.shape), self.tokens
        if shape[:2] == (1, tokens):
            return self.groups.unpack(value[0], self.group)
        if shape == (tokens,) and not value.is_floating_point():  # positions counted from the first token on
            return value[: self.longest]
        if len(shape) == 3 and shape[1:] == (1, tokens) and not value.is_floating_point():  # positions on several axes
            return torch.stack([self.groups.unpack(axis[0], self.group) for axis in value])
        if len(shape) == 3 and shape[1:] == (1, tokens):  # what each head adds to the scores of each key: ALiBi
            value = value[..., : self.longest]
            return value.repeat(self.rows, 1, 1) if self.repeats else value
        if len(shape) == 4 and shape[:3] == (1, 1, tokens):  # angles of positions, or a single head
            return self.groups.unpack(value[0, 0], self.group)[:, None]
        if len(shape) == 4 and shape[2:] == (self.longest_of_all, self.longest_of_all):  # a mask of each sequence
            return value[..., : self.longest, : self.longest].expand(self.rows, -1, -1, -1)
        return value


def merged(results: list[Any], groups: Groups) -> Any:
    """Return the results of all groups packed: [sequences, longest, ...] of each become [1, tokens, ...].

    Raises NotImplementedError for results that do not belong to tokens. Beside others they become None: attention
    weights, which nobody uses. A weight that a layer returns, such as a bias that is added later, stays as it is.
    """
    first = results[0]
    if isinstance(first, torch.nn.Parameter):
        return first
    if isinstance(first, torch.Tensor):
        return merged_tensors(results, groups)
    if type(first) not in (tuple, list):
        return first
    parts = []
    for i in range(len(first)):
        try:
            parts.append(merged([result[i] for result in results], groups))
        except NotImplementedError:
            if len(first) == 1:
                raise
            parts.append(None)
    return type(first)(parts)


def merged_tensors(tensors: list[torch.Tensor], groups: Groups) -> torch.Tensor:
    """Return tensors of all groups packed."""
    pairs = [(tensor, *places.shape) for tensor, places in zip(tensors, groups.places, strict=True)]
    if all(tensor.shape[:2] == (rows, longest) for tensor, rows, longest in pairs):
        return groups.pack(equally_wide(tensors))[None]
    if all(tensor.ndim > 1 and len(tensor) == rows * longest for tensor, rows, longest in pairs):
        return groups.pack([tensor.unflatten(0, (rows, longest)) for tensor, rows, longest in pairs])
    # The same for all sequences: the positions of a family that counts them by itself.
    if all(tensor.ndim in (2, 3) and tensor.shape[-2] == longest for tensor, _, longest in pairs):
        packed_once = groups.pack([tensor.expand(rows, longest, -1) for tensor, rows, longest in pairs])
        return packed_once if tensors[0].ndim == 2 else packed_once[None]
    raise NotImplementedError("a result that does not belong to tokens")


def equally_wide(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return tensors with the last index repeated as often as the widest needs: a token's chosen keys, in any order."""
    if tensors[0].is_floating_point() or tensors[0].dim() != 3:
        return tensors
    widest = max(tensor.shape[2] for tensor in tensors)
    return [torch.cat((tensor, tensor[..., -1:].expand(-1, -1, widest - tensor.shape[2])), dim=2) for tensor in tensors]


def differs(left: Any, right: Any, sequences: Packed) -> bool:
    """Tell whether two results of a layer, packed, differ by more than rounding.

    What mixes sequences shows in the first token of each sequence but the first, or in many tokens of long ones. A few
    others may differ in two right ways: an expert that is chosen by a hair.
    """
    if isinstance(left, torch.Tensor):
        if not isinstance(right, torch.Tensor) or left.numel() != right.numel() or not left.is_floating_point():
            return False
        tokens = left.numel() // left.shape[-1]
        share = SHARE.get(left.dtype, SHARE_ROUNDED)
        left, right = (part.reshape(tokens, -1).float() for part in (left, right))
        wrong = ~((left - right).norm(dim=1) <= share * left.norm(dim=1))
        if tokens != sequences.tokens:
            return False
        firsts = wrong[sequences.starts[1:-1].long()]
        return bool(firsts.float().mean() > 0.5) or bool(wrong.float().mean() > 0.25)
    if type(left) in (tuple, list):
        return any(differs(*pair, sequences) for pair in zip(left, right, strict=False))
    return False


def is_sharded(module: torch.nn.Module) -> bool:
    """Tell whether ZeRO-3 gathers weights of this module's parts when they are computed, not before."""
    return any(
        getattr(parameter, "ds_status", ZeroParamStatus.AVAILABLE) is not ZeroParamStatus.AVAILABLE
        for parameter in module.parameters()
    )


def set_attention(model: transformers.PreTrainedModel, name: str) -> None:
    """Set the attention of a model, also where a family writes it out itself: then the name decides its masks."""
    implementation.use_attention(model, name)
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, transformers.PreTrainedConfig) and config._attn_implementation != name:
            config._attn_implementation_internal = name


def mask_of_a_sequence(
    *, mask_function: Callable[..., torch.Tensor], dtype: torch.dtype, device: torch.device, **_: Any
) -> torch.Tensor:
    """Return what a family's mask adds to the scores in the longest sequence, [1, 1, longest, longest].

    Transformers calls this, as a mask function of its own. The mask of a shorter sequence is the beginning of it.
    """
    sequences = packed.noted()
    if sequences is None or sequences.longest > MASKED:
        raise NotImplementedError("a mask for sequences that are padded or long")
    start = sum(sequences.lengths[: sequences.lengths.index(sequences.longest)])
    tokens = torch.arange(start, start + sequences.longest, device=device)
    sees = mask_function(0, 0, tokens[:, None], tokens[None])
    shape = 2 * (sequences.longest,)
    added = torch.zeros(shape, dtype=dtype, device=device)
    return added.masked_fill_(~sees.expand(shape), torch.finfo(dtype).min)[None, None]


MASKED_IMPLEMENTATION = "sft_packed_masked"
transformers.AttentionInterface.register(MASKED_IMPLEMENTATION, attention.attention)
AttentionMaskInterface.register(MASKED_IMPLEMENTATION, mask_of_a_sequence)


def of(model: torch.nn.Module) -> list[Layer]:
    """Return the layers of a model that are computed on padded batches."""
    return [module.forward for module in model.modules() if isinstance(module.forward, Layer)]


def undo(model: transformers.PreTrainedModel, attention_name: str) -> None:
    """Have every layer computed as its family does, with an attention that takes padded batches."""
    for layer in of(model):
        layer.remove()
    set_attention(model, attention_name)
    packed.note(None)


def find(model: transformers.PreTrainedModel, compute: Callable[[], object]) -> list[Layer]:
    """Return the layers that mix tokens in `compute`, a packed forward pass; they are computed on padded batches then.

    All parts of the decoder layers are tried, and what comes before them, but nothing that contains several of them.
    """
    around = {parent for parent in model.modules() if set(decoder_layers(model)) & set(parent.modules())}
    around -= {part for layer in decoder_layers(model) for part in layer.modules()}
    layers = [Layer(module) for module in model.modules() if module not in around]
    try:
        compute()
    finally:
        for layer in layers:
            layer.is_tried = False
            if not layer.mixes:
                layer.remove()
    return [layer for layer in layers if layer.mixes]
