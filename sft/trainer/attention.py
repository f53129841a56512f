"""Attention over packed sequences, which cannot attend to each other.

Registered with transformers under the name `IMPLEMENTATION`, so every model family that goes through its attention
interface gets it. The kernel is flash-attn's if that is installed, otherwise PyTorch's own variable-length
attention; PyTorch's flex attention for sinks and soft capping; otherwise (CPU, fp32) one sequence after another.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from sft.trainer.attention_options import Kernel, Options
from sft.trainer.flex import flex
from sft.trainer.packed import Packed, noted

try:
    from torch.nn.attention import varlen
except ImportError:  # torch before 2.10
    varlen_attn: Any = None
else:
    varlen_attn = varlen.varlen_attn

IMPLEMENTATION = "sft_packed"
# Tensors that families pass to every attention, and that say nothing which is not known otherwise.
NOT_USED = ("position_ids", "cache_position", "cu_seq_lens_q", "cu_seq_lens_k")
# torch 2.13 has an option for keys with fewer heads than queries; earlier versions take such keys without it.
VARLEN_GROUPED = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn or print).parameters else {}


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed: Packed | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    indices: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each sequence. Query, key and value are [1, heads, tokens, size], as transformers passes them.

    Some families do not pass `packed` on: then it is the micro-batch that is noted. Inside an unpacked layer there is
    none: then they are [sequences, heads, longest, size], and the mask, if any, is [sequences, 1, longest, longest].
    """
    if unknown := [name for name, value in others.items() if isinstance(value, torch.Tensor) and name not in NOT_USED]:
        raise NotImplementedError(f"attention with {unknown[0]}")  # left out, it would be another attention
    packed = packed or noted()
    options = Options(scaling, sliding_window or 0, dropout, softcap or 0.0, s_aux if sinks is None else sinks)
    if packed is None:
        mask = attention_mask
        if indices is not None:
            mask = of_chosen(causal(query, options.window) if mask is None else mask, indices, key.shape[2])
        if position_bias is not None:
            mask = bias(query, causal(query, options.window) if mask is None else mask) + position_bias
        return in_batches(query, key, value, mask, options).transpose(1, 2), None
    if options.window >= packed.longest:
        options = options._replace(window=0)
    if not (position_bias is sinks is indices is None):
        raise NotImplementedError("a bias, a sink or keys for each packed token")
    # Not that of a sequence, which unpacked layers are given: the family's own, which hides more than what follows.
    if attention_mask is not None and attention_mask.shape[-1] != packed.longest:
        raise NotImplementedError("a mask for each pair of packed tokens")
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    attend = fastest(query.device.type, query.dtype, options)
    return attend(query, key, value, packed, options)[None], None


AttentionInterface.register(IMPLEMENTATION, attention)


def fastest(device: str, dtype: torch.dtype, options: Options) -> Kernel:
    """Return the fastest kernel for a device and a type that can do what a model asks."""
    if device != "cuda" or dtype not in (torch.bfloat16, torch.float16) or not has_kernels():
        return one_by_one
    if options.sinks is None and flash_attn_varlen():
        return flash_attention
    if options.dropout:
        return one_by_one
    if options.sinks is not None or options.softcap:
        return flex
    return torch_varlen if varlen_attn else one_by_one


def kernel_name(device: str, dtype: torch.dtype) -> str:
    """Return the name of the fastest kernel for a device and a type, for people."""
    kernels: dict[Kernel, str] = {
        flash_attention: "flash-attn",
        torch_varlen: "torch's varlen",
        one_by_one: "sequence by sequence",
    }
    return kernels.get(fastest(device, dtype, Options(None, 0, 0.0)), "varlen")


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
        window_size=(options.window - 1, 0) if options.window else (-1, -1), softcap=options.softcap,
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


@torch.compiler.disable  # type: ignore[untyped-decorator]  # it would be compiled anew for each number of sequences
def one_by_one(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: Packed, options: Options
) -> torch.Tensor:
    """Attend in one sequence after another: exact on any device, and without a mask of tokens x tokens."""
    parts = (part.transpose(0, 1)[None].split(packed.lengths, dim=2) for part in (query, key, value))
    outputs = [in_batches(q, k, v, None, options)[0].transpose(0, 1) for q, k, v in zip(*parts, strict=True)]
    return torch.cat(outputs)


def in_batches(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, options: Options
) -> torch.Tensor:
    """Attend in each sequence of a batch, [sequences, heads, tokens, size]. No mask: causal, in the window."""
    is_plain = options.sinks is None and not options.softcap
    if mask is None and (0 < options.window < query.shape[2] or not is_plain):
        mask = causal(query, options.window)
    if not is_plain:
        return written_out(query, key, value, mask, options)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=options.dropout, is_causal=mask is None, scale=options.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip


def causal(query: torch.Tensor, window: int) -> torch.Tensor:
    """Return which tokens each token of a query [..., tokens, size] sees: [tokens, tokens]."""
    positions = torch.arange(query.shape[-2], device=query.device)
    behind = positions[:, None] - positions
    return (behind >= 0) & (behind < (window or len(positions)))


def of_chosen(mask: torch.Tensor, indices: torch.Tensor, keys: int) -> torch.Tensor:
    """Return a mask for the keys alone that an indexer has chosen for each token, `indices` [sequences, tokens, some].

    Families of sparse attention do so themselves for the implementations that they know by name.
    """
    chosen = indices.new_zeros((*indices.shape[:2], keys), dtype=torch.bool).scatter(-1, indices.long(), True)[:, None]
    return mask & chosen if mask.dtype == torch.bool else mask.masked_fill(~chosen, torch.finfo(mask.dtype).min)


def bias(query: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return what a mask adds to scores; without one, causal attention without a window."""
    mask = causal(query, 0) if mask is None else mask
    return (
        mask if mask.dtype != torch.bool else torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -torch.inf)
    )


def written_out(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, options: Options
) -> torch.Tensor:
    """Attend with soft capping and sinks, [sequences, heads, tokens, size]."""
    key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    scale = query.shape[-1] ** -0.5 if options.scale is None else options.scale
    scores = (query @ key.transpose(2, 3)).float() * scale
    if options.softcap:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    scores = scores + bias(scores, mask)
    if options.sinks is not None:
        of_queries = options.sinks if options.sinks.dim() == 4 else options.sinks[:, None, None]
        scores = torch.cat((scores, of_queries.float().expand(*scores.shape[:3], 1)), dim=-1)
    shares = scores.softmax(-1)[..., : key.shape[2]].to(value.dtype)
    return F.dropout(shares, options.dropout) @ value
