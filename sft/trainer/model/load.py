"""Load the model under ZeRO, without a full copy per rank."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from sft.settings.deepspeed import DsConfig
from sft.settings.fields import Settings
from sft.trainer.model import quantised

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load_model(
    path: Path, settings: Settings, device: torch.device, ds_config: DsConfig | None = None
) -> transformers.PreTrainedModel:
    """Return the model in `path` on a device, in PRECISION.

    With DeepSpeed's configuration it is loaded to be trained: in 4 bits with LORA_BASE_BITS=4, and sharded under ZeRO-3
    (all ranks): rank 0 reads each tensor, and every rank keeps its shard.
    """
    # transformers takes no argument for ZeRO-3: it looks for such an object, for as long as one is alive.
    zero3 = HfDeepSpeedConfig(ds_config.content) if ds_config and ds_config.stage == 3 else None
    dtype = DTYPES[settings.precision]
    options: dict[str, object] = {} if zero3 else {"device_map": {"": device}}
    if ds_config and settings.lora_base_bits == 4:
        options["quantization_config"] = quantised.config(dtype)
    model_config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=settings.trust_remote_code)
    model_config.use_cache = ds_config is None
    padding = without_padding(model_config)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, config=model_config, dtype=dtype, **options, **permissions(settings)
        )
    except (ValueError, RuntimeError, IndexError, AttributeError):
        if zero3 is None:
            raise
        # Some families compute weights while they are loaded, which needs them whole. DeepSpeed's engine shards them.
        del zero3
        gc.collect()
        zero3 = None
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, config=model_config, dtype=dtype, device_map={"": device}, **permissions(settings)
        )
    quantised.disable_cpu_packing(model)
    model.config.pad_token_id = padding
    others: list[Any] = [module for module in model.modules() if not isinstance(module, torch.nn.Embedding)]
    for module in others:
        if getattr(module, "padding_idx", padding) is None:
            module.padding_idx = padding  # some families number the positions from the padding token on
    model.config.use_cache = True
    del zero3
    return model


def without_padding(config: transformers.PreTrainedConfig) -> int | None:
    """Take the padding token out of a configuration, if its family allows that. Return the token.

    Initialising an embedding writes zeros into its padding row, which a sharded embedding does not have.
    """
    padding: int | None = getattr(config, "pad_token_id", None)
    try:
        config.pad_token_id = None
    except Exception:  # a configuration that checks its fields, with an error of its own
        config.pad_token_id = padding
    return padding


def permissions(settings: Settings) -> dict[str, object]:
    """Return transformers' options for what loading may do: run a model's own code, or unpickle its weights."""
    return {"trust_remote_code": settings.trust_remote_code, "use_safetensors": None if settings.allow_pickle else True}


def free_unused_memory(device: torch.device) -> None:
    """Have the allocator return unused memory to the GPU: other allocations are sized by its free memory.

    An engine is full of references to itself. Only the garbage collector finds that nobody uses it any more.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
