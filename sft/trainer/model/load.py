"""Load the model under ZeRO, without a full copy per rank."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from sft.errors import SettingsError, wrong
from sft.settings.deepspeed import DsConfig
from sft.settings.fields import Settings
from sft.trainer.model import loaded, published, quantised

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load_model(
    path: Path, settings: Settings, device: torch.device, ds_config: DsConfig | None = None
) -> transformers.PreTrainedModel:
    """Return the model in `path` on a device, in PRECISION.

    With DeepSpeed's configuration it is loaded to be trained: in 4 bits with LORA_BASE_BITS=4, and sharded under ZeRO-3
    (all ranks): rank 0 reads each tensor, and every rank keeps its shard. Raises SettingsError if files lack weights of
    the model.
    """
    # transformers takes no argument for ZeRO-3: it looks for such an object, for as long as one is alive.
    zero3 = HfDeepSpeedConfig(ds_config.content) if ds_config and ds_config.stage == 3 else None
    dtype = DTYPES[settings.precision]
    options: dict[str, object] = {} if zero3 else {"device_map": {"": device}}
    if ds_config and settings.lora_base_bits == 4:
        options["quantization_config"] = quantised.config(dtype)
    model_config = published.own_config(path, settings.trust_remote_code)
    model_config.use_cache = ds_config is None
    padding = without_padding(model_config)
    options |= {"dtype": dtype, **permissions(settings)}
    model: Any = None
    problem: tuple[str, str] | None = None
    try:
        model, info = loaded.from_pretrained(path, model_config, **options)
        problem = loaded.misfit(model, info)
    except (ValueError, RuntimeError, IndexError, AttributeError, ArithmeticError):
        if zero3 is None:
            raise
    if zero3 is not None and (model is None or problem):
        # Some families compute weights while they are loaded, which needs them whole, and transformers finds the
        # weights of some (DeepSeek-V4) only when it loads them whole. DeepSpeed's engine shards them.
        model = zero3 = None
        gc.collect()
        model, info = loaded.from_pretrained(path, model_config, device_map={"": device}, **options)
        problem = loaded.misfit(model, info)
    if problem:
        raise SettingsError([wrong("MODEL_NAME", settings.model_name, *problem)])
    quantised.disable_cpu_packing(model)
    # The last of them is the one about text, which may be all of the model's.
    for part, token in zip(reversed(text_configs(model.config)), reversed(padding), strict=False):
        part.pad_token_id = token
    others: list[Any] = [module for module in model.modules() if not isinstance(module, torch.nn.Embedding)]
    for module in others:
        if getattr(module, "padding_idx", padding) is None:
            # Some families number the positions from the padding token on.
            module.padding_idx = next(reversed(padding), None)
    model.config.use_cache = True
    del zero3
    return model


def text_configs(config: transformers.PreTrainedConfig) -> list[transformers.PreTrainedConfig]:
    """Return the configurations that name a padding token: the whole, and its part about text if it has one.

    Some multimodal models have it in one of them, some in both.
    """
    parts = [config, config.get_text_config()]
    return [part for part in parts[: 1 if parts[0] is parts[1] else 2] if hasattr(part, "pad_token_id")]


def without_padding(config: transformers.PreTrainedConfig) -> list[int | None]:
    """Take the padding token out of each of a model's `text_configs`, if its family allows that. Return the tokens.

    Initialising an embedding writes zeros into its padding row, which a sharded embedding does not have.
    """
    found: list[int | None] = []
    for part in text_configs(config):
        found.append(part.pad_token_id)
        try:
            part.pad_token_id = None
        except Exception:  # a configuration that checks its fields, with an error of its own
            part.pad_token_id = found[-1]
    return found


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
