"""The parts of a model by size, whatever its family calls them, sharded or not."""

from __future__ import annotations

from collections.abc import Collection

import torch

from sft.trainer.model import quantised


def decoder_layers(model: torch.nn.Module, unused: Collection[str] = ()) -> list[torch.nn.Module]:
    """Return the model's repeated layers: the longest ModuleList by weights, whatever its family calls it.

    Lists whose weights are all `unused` belong to another part than the language model.
    """

    def is_used(path: str, layers: torch.nn.ModuleList) -> bool:
        return any(f"{path}.{name}" not in unused for name, _ in layers.named_parameters())

    lists = [
        module
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) > 1 and is_used(path, module)
    ]
    return list(max(lists, key=count_weights, default=[]))


def true_shape(parameter: torch.nn.Parameter) -> torch.Size:
    """Return the original shape of a parameter.

    ZeRO-3 leaves an empty tensor with its shape in `ds_shape`; a quantised parameter is packed.
    """
    return getattr(parameter, "ds_shape", quantised.true_shape(parameter))


def count_weights(module: torch.nn.Module, only_trained: bool = False) -> int:
    """Return the number of a module's weights over all ranks, sharded or not."""
    parameters = (p for p in module.parameters() if p.requires_grad or not only_trained)
    return sum(true_shape(parameter).numel() for parameter in parameters)
