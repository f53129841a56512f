"""QLoRA (Dettmers et al. 2023): the frozen weights under an adapter, kept in 4 bits by bitsandbytes.

NF4 in blocks of 64, whose scales are quantised too. Each matrix is dequantised to the run's precision when it is used,
and only while it is used. Embeddings, norms and the head are not quantised.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import transformers


def config(dtype: torch.dtype) -> transformers.BitsAndBytesConfig:
    """Return the options with which transformers quantises each matrix as it reads it. Computation is in `dtype`."""
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def disable_cpu_packing(model: torch.nn.Module) -> None:
    """Keep the layout of the 4-bit weights in evaluation.

    On CPUs with bf16 instructions, bitsandbytes repacks them there, with rounding, and never back: in the training
    after a validation, no gradient would pass through them.
    """
    packing: list[Any] = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    for module in packing:
        module.support_avx512bf16_for_cpu = False


def true_shape(parameter: torch.nn.Parameter) -> torch.Size:
    """Return a parameter's shape. A quantised parameter is packed: the matrix in it has another shape."""
    state: Any = getattr(parameter, "quant_state", None)
    return parameter.shape if state is None else state.shape


def weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the name of each quantised matrix, and its dequantised value in main memory."""
    for name, parameter in model.named_parameters():
        state: Any = getattr(parameter, "quant_state", None)
        if state is not None:
            from bitsandbytes.functional import dequantize_4bit  # optional: only a quantised model needs it

            yield name, dequantize_4bit(parameter.data, state).cpu()
