"""fla's kernels (flash-linear-attention) for the functions that mix the tokens of a sequence.

Each takes the arguments of transformers' function by their names, and the borders of packed sequences or None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from transformers.activations import ACT2FN

from sft.trainer.packed import Packed

Given = dict[str, Any]


def borders(sequences: Packed | None) -> dict[str, torch.Tensor]:
    """Return fla's arguments for packed sequences: a copy on the CPU spares it waiting for the GPU."""
    if sequences is None:
        return {}
    return {"cu_seqlens": sequences.starts_long, "cu_seqlens_cpu": sequences.starts_on_cpu}


def load() -> None:
    """Import fla, which takes seconds. Raises ImportError or OSError if it does not fit what else is installed."""
    import fla.modules.causal_conv1d
    import fla.ops.gated_delta_rule
    import fla.ops.kda
    import fla.ops.simple_gla  # noqa: F401


def convolution(given: Given, sequences: Packed | None) -> torch.Tensor:
    """Convolve [batch, channels, tokens]."""
    from fla.modules.causal_conv1d import causal_conv1d

    values, activation = given["hidden_states"], given.get("activation")
    inside = activation if activation in ("silu", "swish") else None
    found, _ = causal_conv1d(
        values.transpose(1, 2), given["weight"], given.get("bias"), activation=inside, **borders(sequences)
    )
    found = found.transpose(1, 2)
    if activation and not inside:
        found = ACT2FN[activation](found)
    result: torch.Tensor = found.to(values.dtype)
    return result


def delta_rule(given: Given, sequences: Packed | None) -> tuple[torch.Tensor, None]:
    """Compute the gated delta rule, whose decay is one number for each head, or Kimi's, with one for each channel."""
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule
    from fla.ops.kda import chunk_kda

    rule = chunk_kda if given["g"].dim() == 4 else chunk_gated_delta_rule
    tensors = (given[name].contiguous() for name in ("query", "key", "value", "g", "beta"))
    normed = given.get("use_qk_l2norm_in_kernel", False)
    found, _ = rule(*tensors, use_qk_l2norm_in_kernel=normed, **borders(sequences))
    return found, None


def state_space(given: Given, sequences: Packed | None) -> torch.Tensor:
    """Compute the scan of Mamba 2, which is linear attention: values x * dt, decay A * dt, keys B and queries C."""
    from fla.ops.simple_gla import chunk_simple_gla

    values, A, D, bias = given["hidden_states"], given["A"], given.get("D"), given.get("dt_bias")
    step = given["dt"].float()
    if bias is not None:
        step = step + bias.float()
    if given.get("dt_softplus"):
        step = F.softplus(step)
    step = step.clamp(*given.get("dt_limit", (0.0, float("inf"))))
    heads = values.shape[2]
    keys, queries = (
        given[name].repeat_interleave(heads // given[name].shape[2], dim=2, output_size=heads) for name in "BC"
    )
    weighted = (values * step[..., None]).to(values.dtype)
    found, _ = chunk_simple_gla(queries, keys, weighted, A.float() * step, scale=1.0, **borders(sequences))
    if D is not None:
        found = found + (values * D[..., None]).to(values.dtype)
    result: torch.Tensor = found
    return result


KERNELS: dict[str, Callable[[Given, Packed | None], Any]] = {
    "convolution": convolution,
    "delta rule": delta_rule,
    "state space": state_space,
}
