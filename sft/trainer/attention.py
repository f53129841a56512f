"""Attention over packed sequences, which cannot attend to each other.

Registered with transformers under the name `IMPLEMENTATION`, so every model family that goes through its attention
interface gets it. The kernel is flash-attn's if that is installed, otherwise PyTorch's own variable-length
attention, otherwise (CPU, fp32) one scaled dot product after another.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

try:
    from torch.nn.attention import varlen
except ImportError:  # torch before 2.10
    varlen_attn: Any = None
else:
    varlen_attn = varlen.varlen_attn

IMPLEMENTATION = "sft_packed"
# torch 2.13 has an option for keys with fewer heads than queries; earlier versions take such keys without it.
VARLEN_GROUPED = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn or print).parameters else {}

# (query, key, value) [tokens, heads, size], packed, options -> [tokens, heads, size]
Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, "Packed", "Options"], torch.Tensor]


@dataclass(frozen=True)
class Packed:
    """The borders of packed sequences: several sequences in one tensor [1, tokens], one behind the other."""

    starts: torch.Tensor  # int32 [sequences + 1] on the device: token offsets; the last is the number of tokens
    lengths: list[int]  # of each sequence, in tokens

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)


class Options(NamedTuple):
    """What a model asks of its attention."""

    scale: float | None  # of the scores; None: 1 / sqrt(size)
    window: int  # tokens that a token attends to, itself included; 0: all before it
    dropout: float


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed: Packed,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each sequence. Query, key and value are [1, heads, tokens, size], as transformers passes them.

    Raises NotImplementedError for what no kernel here can do; the model is then trained on padded sequences.
    """
    if softcap or s_aux is not None:
        raise NotImplementedError("attention with soft capping or sinks")
    window = sliding_window if sliding_window and sliding_window < packed.longest else 0
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    attend = fastest(query.device.type, query.dtype, dropout > 0)
    return attend(query, key, value, packed, Options(scaling, window, dropout))[None], None


AttentionInterface.register(IMPLEMENTATION, attention)


def fastest(device: str, dtype: torch.dtype, dropout: bool) -> Kernel:
    """Return the fastest kernel for a device and a type, with `dropout` one that can do it."""
    if device != "cuda" or dtype not in (torch.bfloat16, torch.float16) or not has_kernels():
        return one_by_one
    if flash_attn_varlen():
        return flash_attention
    return torch_varlen if varlen_attn and not dropout else one_by_one


def kernel_name(device: str, dtype: torch.dtype) -> str:
    """Return the name of the fastest kernel for a device and a type, for people."""
    kernels: dict[Kernel, str] = {
        flash_attention: "flash-attn",
        torch_varlen: "torch's varlen",
        one_by_one: "sequence by sequence",
    }
    return kernels.get(fastest(device, dtype, dropout=False), "varlen")


@functools.cache
def flash_attn_varlen() -> Callable[..., torch.Tensor] | None:
    """Return flash-attn's function, or None if it is not installed or does not load: a build fits only one torch."""
    if importlib.util.find_spec("flash_attn") is None:
        return None
    try:
        from flash_attn import flash_attn_varlen_func
    except (ImportError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"flash-attn does not load ({reason}): attention without it", flush=True)
        return None
    return flash_attn_varlen_func


@functools.cache
def has_kernels() -> bool:
    """Tell whether Triton's and flash-attn's kernels are made for this GPU: Ampere or newer. True without a GPU."""
    return not torch.cuda.is_available() or torch.cuda.get_device_capability() >= (8, 0)


def flash_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: Packed, options: Options
) -> torch.Tensor:
    """Attend with flash-attn."""
    attend = flash_attn_varlen()
    assert attend is not None
    return attend(
        query, key, value, packed.starts, packed.starts, packed.longest, packed.longest,
        dropout_p=options.dropout, softmax_scale=options.scale, causal=True,
        window_size=(options.window - 1, 0) if options.window else (-1, -1),
    )  # fmt: skip


def torch_varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: Packed, options: Options
) -> torch.Tensor:
    """Attend with torch.nn.attention.varlen. A window of (-1, 0) is causal attention."""
    grouped = VARLEN_GROUPED if query.shape[1] != key.shape[1] else {}
    output: torch.Tensor = varlen_attn(
        query, key, value, packed.starts, packed.starts, packed.longest, packed.longest,
        scale=options.scale, window_size=(options.window - 1 if options.window else -1, 0), **grouped,
    )  # fmt: skip
    return output


def one_by_one(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: Packed, options: Options
) -> torch.Tensor:
    """Attend in one sequence after another: exact on any device, and without a mask of tokens x tokens."""
    outputs = []
    parts = (part.transpose(0, 1).split(packed.lengths, dim=1) for part in (query, key, value))
    for q, k, v in zip(*parts, strict=True):
        mask = None
        if 0 < options.window < q.shape[1]:
            positions = torch.arange(q.shape[1], device=q.device)
            behind = positions[:, None] - positions
            mask = (behind >= 0) & (behind < options.window)
        outputs.append(
            F.scaled_dot_product_attention(
                q[None], k[None], v[None], attn_mask=mask, dropout_p=options.dropout, is_causal=mask is None,
                scale=options.scale, enable_gqa=q.shape[0] != k.shape[0],
            )[0].transpose(0, 1)
        )  # fmt: skip
    return torch.cat(outputs)
