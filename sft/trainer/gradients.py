"""Check that the engine keeps what autograd computes: no trained weight may lose its gradient.

ZeRO takes gradients over in hooks, and a hook may fire too early or never. Under ZeRO-3, a layer that is gathered whole
counts as done when the gradient of its input is there. That is wrong if a layer returns a list or a dict, takes its
input by keyword, or is called twice. No error says so: the optimizer gets zeros for these weights, or a part of the
gradient.

`Misfits` finds such layers in a forward pass. `Watch` asks autograd itself during the dry run: a hook on each trained
weight notes the norm of its gradient before DeepSpeed sees it. All ranks and micro-steps of the dry run have the same
rows and the same dropout, so their gradients differ only by a factor. DeepSpeed must then have, for each weight, the
average over the ranks of the summed gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from deepspeed import DeepSpeedEngine
from deepspeed.utils import safe_get_local_grad, z3_leaf_module

from sft.errors import SettingsError, wrong
from sft.settings.fields import Settings
from sft.trainer import distributed
from sft.trainer.distributed import World

# DeepSpeed's and autograd's norm of a weight's gradient may differ by this share of the norm, plus this share of the
# whole gradient's norm: kernels add in any order, and a gradient that should be zero, such as that of a key's bias, is
# nothing but rounding. If a gradient is lost, they differ by more.
OF_ITSELF = 0.1
OF_ALL = {torch.float32: 1e-5}
OF_ALL_ROUNDED = 1e-3  # bf16 and fp16


class Misfits:
    """While entered, finds the layers that would lose gradients if ZeRO-3 gathered them whole. Needs a forward pass."""

    def __init__(self, engine: DeepSpeedEngine) -> None:
        self.module = engine.module
        self.layers = [module for module in engine.module.modules() if z3_leaf_module(module)]
        self.reasons: dict[str, None] = {}
        self.called: set[torch.nn.Module] = set()

    def __enter__(self) -> Misfits:
        self.hooks = [self.module.register_forward_pre_hook(lambda *_: self.called.clear())]
        for layer in self.layers:
            self.hooks.append(layer.register_forward_pre_hook(self.before))
            self.hooks.append(layer.register_forward_hook(self.after))
        return self

    def __exit__(self, *_: Any) -> None:
        for hook in self.hooks:
            hook.remove()

    def before(self, layer: torch.nn.Module, by_position: tuple[Any, ...]) -> None:
        if layer in self.called:
            self.reasons[f"{type(layer).__name__} is called more than once"] = None
        self.called.add(layer)
        if not any(map(has_gradient, by_position)):
            self.reasons[f"{type(layer).__name__} takes its input by keyword"] = None

    def after(self, layer: torch.nn.Module, _: Any, output: Any) -> None:
        if not any(map(has_gradient, output if isinstance(output, tuple) else (output,))):
            self.reasons[f"{type(layer).__name__} returns {with_article(type(output).__name__)}"] = None


def with_article(noun: str) -> str:
    """Return a noun after its indefinite article."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def has_gradient(value: Any) -> bool:
    """Tell whether a value is a tensor that can have a gradient."""
    return isinstance(value, torch.Tensor) and value.is_floating_point()


@dataclass(frozen=True)
class Found:
    """Trained weights, by name, whose gradients are not what one would expect."""

    lost: list[str]  # autograd computes a gradient, and DeepSpeed has none, or only a part of it
    without: list[str]  # autograd computes none: the loss does not depend on them


class Watch:
    """While entered, notes the norm of each trained weight's gradient as autograd computes it."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        self.norms: dict[str, list[torch.Tensor]] = {name: [] for name in self.trained}

    def __enter__(self) -> Watch:
        self.hooks = [
            parameter.register_hook(partial(self.note, norms=self.norms[name]))
            for name, parameter in self.trained.items()
        ]
        return self

    def __exit__(self, *_: Any) -> None:
        for hook in self.hooks:
            hook.remove()

    @staticmethod
    def note(gradient: torch.Tensor, norms: list[torch.Tensor]) -> None:
        """Note a gradient's norm, on its device: the host does not wait for it."""
        norms.append(torch.linalg.vector_norm(gradient.detach(), dtype=torch.float32))

    def compare(self, engine: DeepSpeedEngine, micro_steps: int, world: World) -> Found:
        """Compare with the gradients in DeepSpeed's optimizer, after `micro_steps` equal micro-steps (all ranks)."""
        zero = torch.zeros((), device=world.device)
        weights = self.trained.values()
        columns = (
            [sum(norms, start=zero) for norms in self.norms.values()],
            [squared_norm(engine, weight) for weight in weights],
            [float(weight.grad is not None) for weight in weights],  # left where autograd puts it: not taken over
            [float(len(norms)) for norms in self.norms.values()],
        )
        sums = distributed.total([value for column in columns for value in column], world)  # one all-reduce
        norms, squares, left, times = (sums[i * len(weights) : (i + 1) * len(weights)] for i in range(len(columns)))
        whole = math.sqrt(sum(square for square in squares if math.isfinite(square)))
        types = {weight.dtype for weight in weights}
        negligible = whole * max((OF_ALL.get(dtype, OF_ALL_ROUNDED) for dtype in types), default=0.0)
        found = Found([], [])
        for name, norm, square, is_left, fired in zip(self.trained, norms, squares, left, times, strict=True):
            expected, actual = norm / world.world_size, math.sqrt(square)
            # Norms of gradients that come in parts do not add up to the norm of the whole.
            in_parts = fired > micro_steps * world.world_size
            differs = abs(actual - expected) > OF_ITSELF * expected + negligible  # not if both are infinite (fp16)
            if in_parts:
                differs = expected > negligible and not actual
            if not fired:
                found.without.append(name)
            elif is_left or differs:
                found.lost.append(name)
        return found


def squared_norm(engine: DeepSpeedEngine, parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return the squared norm of the part of a weight's gradient that this rank's optimizer has."""
    if engine.zero_optimization_stage() == 3:
        part = safe_get_local_grad(parameter)
    else:
        part = part_under_stages_1_and_2(parameter)
    if part is None:
        return torch.zeros((), device=parameter.device)
    return torch.linalg.vector_norm(part, dtype=torch.float32).square()


def part_under_stages_1_and_2(parameter: Any) -> torch.Tensor | None:
    """Return this rank's part of a gradient under ZeRO-1 or 2, or None if other ranks hold all of it.

    DeepSpeed has no function for it: this is the beginning of its safe_get_full_grad, which then collects all parts.
    """
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    part = mapping.get_lp_grad_fragment(parameter._index_in_param_group).flatten()
    address = mapping.lp_fragment_address
    return part.narrow(0, address.start, address.numel) if part.numel() == parameter.numel() else part


def refused(found: Found, settings: Settings) -> SettingsError:
    """Return the error for a model whose gradients DeepSpeed loses, however its weights are gathered."""
    what = f"DeepSpeed does not keep the gradients of {weights_in_words(found.lost)}, so they would be trained wrongly"
    remedy = "use another model" + ("" if settings.ds_config == "zero2" else " or DS_CONFIG=zero2")
    return SettingsError([wrong("MODEL_NAME", settings.model_name, what, remedy)])


def weights_in_words(names: list[str], shown: int = 3) -> str:
    """Return the number of weights and the first names, as the model has them."""
    first = ", ".join(name.removeprefix("model.") for name in names[:shown])
    return f"{len(names)} weights ({first}{', …' if len(names) > shown else ''})"
