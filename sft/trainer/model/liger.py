"""Liger's kernels in place of single modules of a model, kernel by kernel: a family may lack one."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch

from sft.trainer.attention import has_kernels
from sft.trainer.model import experts

# By the name that Liger has for most families, what it is called in all of them.
KERNELS = {"rope": ("rope",), "swiglu": ("swiglu", "geglu"), "rms_norm": ("rms_norm", "layer_norm")}
# Liger's losses are not among them: loss.py has its own.
LOSSES = ("cross_entropy", "fused_linear_cross_entropy")
_replaced: dict[tuple[ModuleType, str], object] = {}  # what transformers had in its modules


def is_usable(device: torch.device) -> bool:
    """Tell whether Liger is installed, and a device can run its kernels."""
    return device.type == "cuda" and has_kernels() and importlib.util.find_spec("liger_kernel") is not None


def offered(model: Any) -> set[str]:
    """Return what Liger can replace in a model's family, by its own names: it is silent about the rest."""
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    function = MODEL_TYPE_TO_APPLY_LIGER_FN.get(model.config.model_type)
    return set(inspect.signature(function).parameters) if function else set()


def apply(model: torch.nn.Module, kernel: str) -> bool:
    """Replace the modules of one kind by Liger's. Return whether the model's family has that kernel."""
    from transformers.integrations.liger import apply_liger_kernel  # imports peft, which takes a second

    if kernel == "swiglu" and experts.are_in(model):
        # Its kernel for experts tries dozens of variants of itself at first, which takes minutes, and it does not know
        # adapters on them. transformers has grouped products for experts.
        return False
    if offered(model).isdisjoint(KERNELS[kernel]):
        return False
    alone = {name: named == kernel for named, names in KERNELS.items() for name in names}
    try:
        with noting_what_it_replaces():
            apply_liger_kernel(model, alone | dict.fromkeys(LOSSES, False))
    except (NotImplementedError, AttributeError, TypeError, ValueError):
        return False
    return True


@contextlib.contextmanager
def noting_what_it_replaces() -> Iterator[None]:
    """Keep what Liger replaces not only in a model but in transformers' modules, where it is used by all models."""
    modules = [module for name, module in sys.modules.items() if ".modeling_" in name]
    before = [(module, dict(vars(module))) for module in modules]
    try:
        yield
    finally:
        for module, values in before:
            for name, value in values.items():
                if getattr(module, name, None) is not value:
                    _replaced.setdefault((module, name), value)


@contextlib.contextmanager
def undone() -> Iterator[None]:
    """Have transformers' modules as they were before Liger: a new model is then made of transformers' own parts."""
    its = [(module, name, getattr(module, name)) for module, name in _replaced]
    for (module, name), value in _replaced.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in its:
            setattr(module, name, value)


def undo() -> None:
    """Make transformers' modules again what they were before Liger. Models that have its kernels are of no use then."""
    for (module, name), value in _replaced.items():
        setattr(module, name, value)
    _replaced.clear()


def apply_all(model: torch.nn.Module, without: list[str], said: list[str]) -> Iterator[str]:
    """Take Liger's kernels, but those in `without`. Yield the name of each that is used; add to `said` what is not."""
    # It warns of every backend that is not installed, such as those for other makers' chips.
    logging.getLogger("liger_kernel.backends").setLevel(logging.ERROR)
    missing = list[str]()
    try:
        for kernel in KERNELS:
            if kernel in without:
                continue
            if apply(model, kernel):
                yield kernel
            else:
                missing.append(kernel)
    except (ImportError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        said.append(f"liger-kernel does not load ({reason}): training without it")
    if missing:
        said.append(f"{type(model).__name__} has no {', '.join(missing)} kernel in Liger: its own is used")
