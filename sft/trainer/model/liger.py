"""Liger's kernels in place of single modules of a model, kernel by kernel: a family may lack one."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import torch

from sft.trainer.attention import has_kernels
from sft.trainer.model import experts

KERNELS = ("rope", "swiglu", "rms_norm")
# Liger's losses are not among them: loss.py has its own.
LOSSES = ("cross_entropy", "fused_linear_cross_entropy")


def is_usable(device: torch.device) -> bool:
    """Tell whether Liger is installed, and a device can run its kernels."""
    return device.type == "cuda" and has_kernels() and importlib.util.find_spec("liger_kernel") is not None


def apply(model: torch.nn.Module, kernel: str) -> bool:
    """Replace the modules of one kind by Liger's. Return whether the model's family has that kernel."""
    from transformers.integrations.liger import apply_liger_kernel  # imports peft, which takes a second

    if kernel == "swiglu" and experts.tensors(model):
        # Its kernel for experts tries dozens of variants of itself at first, which takes minutes, and it does not know
        # adapters on them. transformers has grouped products for experts.
        return False
    alone = {name: name == kernel for name in (*KERNELS, *LOSSES)}
    try:
        apply_liger_kernel(model, alone)
    except (NotImplementedError, AttributeError, TypeError, ValueError):
        return False
    return True


def apply_all(model: torch.nn.Module, without: list[str], said: list[str]) -> Iterator[str]:
    """Take Liger's kernels, but those in `without`. Yield the name of each that is used; add to `said` what is not."""
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
