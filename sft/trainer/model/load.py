"""Load the model under ZeRO, without a full copy per rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from sft.settings.fields import Settings
from sft.trainer.model import quantised

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load(
    path: Path, settings: Settings, device: torch.device, config: dict[str, Any] | None = None
) -> transformers.PreTrainedModel:
    """Return the model in `path` on a device, tensor by tensor: no whole copy is in main memory on the way.

    With a DeepSpeed `config` it is to be trained: quantised as it is read where LORA_BASE_BITS says so, and under
    ZeRO-3 its parameters are sharded as they are read (all ranks): rank 0 reads, every rank keeps its shard.
    """
    # transformers asks for this object, not for an argument; it holds for as long as the object lives.
    zero3 = HfDeepSpeedConfig(config) if config and config["zero_optimization"]["stage"] == 3 else None
    dtype = DTYPES[settings.precision]
    how: dict[str, Any] = {} if zero3 else {"device_map": {"": device}}
    if config and settings.lora_base_bits == 4:
        how["quantization_config"] = quantised.config(dtype)
    model_config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=settings.trust_remote_code)
    model_config.use_cache = zero3 is None and config is None
    # Initialising an embedding writes zeros into its padding row, which a sharded embedding does not have.
    padding, model_config.pad_token_id = getattr(model_config, "pad_token_id", None), None
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, config=model_config, dtype=dtype, **how, **allowed(settings)
    )
    quantised.keep_form(model)
    model.config.pad_token_id = padding
    model.config.use_cache = True
    del zero3
    return model


def allowed(settings: Settings) -> dict[str, Any]:
    """Return what loading a model may do, as transformers takes it: pickled weights and code only where allowed."""
    return {"trust_remote_code": settings.trust_remote_code, "use_safetensors": None if settings.allow_pickle else True}
