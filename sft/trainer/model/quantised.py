"""QLoRA (Dettmers et al. 2023): the frozen weights under an adapter, held in 4 bits by bitsandbytes.

NF4 in blocks of 64, whose scales are quantised too. Each matrix is brought back to the run's precision where it is
used, and only for that while: embeddings, norms and the head stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import transformers


def config(dtype: torch.dtype) -> transformers.BitsAndBytesConfig:
    """Return what has transformers quantise each matrix as it is read, to be computed with in `dtype`."""
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def keep_form(model: torch.nn.Module) -> None:
    """Have the 4-bit weights stay as they are in evaluation.

    On CPUs with bf16 bitsandbytes packs them otherwise there, rounded and never back: no gradient would pass them.
    """
    packing: list[Any] = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    for module in packing:
        module.support_avx512bf16_for_cpu = False


def true_shape(parameter: torch.nn.Parameter) -> torch.Size:
    """Return a parameter's shape; of a quantised one, which is packed, that of the matrix it stands for."""
    state: Any = getattr(parameter, "quant_state", None)
    return parameter.shape if state is None else state.shape


def weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and value of each quantised matrix, as the model computes with it, in main memory."""
    for name, parameter in model.named_parameters():
        state: Any = getattr(parameter, "quant_state", None)
        if state is not None:
            from bitsandbytes.functional import dequantize_4bit  # optional: only a quantised model needs it

            yield name, dequantize_4bit(parameter.data, state).cpu()
