"""The experts of a mixture, which transformers stacks in one tensor per matrix: [experts, rows, columns]."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sft.errors import wrong
from sft.settings.fields import Settings
from sft.trainer.model.parts import true_shape

STACKED = 3  # dimensions
IN_TURN = "eager"  # transformers' name for experts that are computed one after another


def tensors(model: torch.nn.Module, unused: Collection[str] = ()) -> dict[str, torch.nn.Parameter]:
    """Return the stacked experts of a model by name. Parameters among `unused` are none: text does not pass them."""
    convolutions = {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Conv1d)
        for own, _ in module.named_parameters(recurse=False)
    }
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if len(true_shape(parameter)) == STACKED and true_shape(parameter)[0] > 1
        if name not in convolutions and name not in unused
    }


def are_in(model: torch.nn.Module) -> bool:
    """Tell whether a model is a mixture of experts, stacked or not, though it be one of a single expert."""
    return bool(tensors(model)) or any("expert" in name for name, _ in model.named_modules())


def compute_in_turn(model: Any) -> bool:
    """Take the experts one after another instead of in grouped products. Return whether that changes anything."""
    grouped = getattr(model.config.get_text_config(), "_experts_implementation", None)
    if grouped in (None, IN_TURN) or not are_in(model):
        return False
    try:
        model.set_experts_implementation(IN_TURN)
    except (ValueError, AttributeError):  # a family without a choice
        return False
    return True


@contextmanager
def targets_as_written() -> Iterator[None]:
    """Keep peft from moving an adapter's targets to the experts inside.

    In transformers 4 each expert had linear layers. For adapters of that time peft takes names such as gate_proj, and
    all-linear, for the experts of some families, with twice the rank: nine tenths of Mixtral's weights, unasked, and
    none for the linear layers of that name that a shared expert still has.
    """
    from peft.utils import transformers_weight_conversion as conversion

    converted = conversion.convert_peft_config_for_transformers
    conversion.convert_peft_config_for_transformers = lambda *_, **__: None
    try:
        yield
    finally:
        conversion.convert_peft_config_for_transformers = converted


def moved_by_peft(model_type: str, targets: Collection[str]) -> list[str]:
    """Return the targets of an adapter that peft, loading it by itself, would move to the experts of a family."""
    from peft.utils import transformers_weight_conversion as conversion

    family = getattr(conversion, "_MODEL_TO_CONVERSION_PATTERN", {}).get(model_type, "")
    moved = getattr(conversion, "_MOE_TARGET_MODULE_MAPPING", {}).get(family, {})
    return sorted({last for target in targets if (last := target.rpartition(".")[2]) in moved})


def names(model: torch.nn.Module, unused: Collection[str] = ()) -> list[str]:
    """Return how peft names the stacked experts: module and parameter, such as `experts.gate_up_proj`."""
    return sorted({".".join(name.split(".")[-2:]) for name in tensors(model, unused)})


def problems(model: torch.nn.Module, settings: Settings, unused: Collection[str] = ()) -> list[str]:
    """Return why the experts of a model cannot have adapters as the settings say."""
    found = []
    if not tensors(model, unused):
        remedy = "use all-linear, or names of its linear layers"
        found.append(wrong("LORA_TARGETS", settings.lora_targets, "this model has no experts in one tensor", remedy))
    if settings.lora_dropout:
        what, remedy = "an adapter on experts has no dropout", "use LORA_DROPOUT=0, or LORA_TARGETS=all-linear"
        found.append(wrong("LORA_DROPOUT", settings.lora_dropout, what, remedy))
    return found
