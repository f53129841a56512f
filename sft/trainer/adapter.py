"""LoRA (Hu et al. 2021) through peft: small matrices beside the frozen linear layers are trained instead of them.

Only a run with an adapter imports peft, which takes a second, and brings bitsandbytes along, which starts CUDA.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D

from sft.errors import SettingsError, wrong
from sft.settings import Settings
from sft.trainer import quantised

NAME = "default"  # peft's own name for an only adapter


def add(model: transformers.PreTrainedModel, settings: Settings) -> None:
    """Freeze a model's weights and put an adapter beside its linear layers, the same on every rank.

    Raises SettingsError where LORA_TARGETS names no layer of the model.
    """
    import peft

    targets = settings.lora_targets
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout,
        target_modules=targets if targets == "all-linear" else [name.strip() for name in targets.split(",")],
    )  # fmt: skip
    torch.manual_seed(settings.seed)
    try:
        model.add_adapter(config)
    except ValueError as error:
        what = f"does not fit this model ({str(error).splitlines()[0]})"
        remedy = "use all-linear or names of its linear layers, such as q_proj,v_proj"
        raise SettingsError([wrong("LORA_TARGETS", targets, what, remedy)]) from None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.to(model.dtype)
    # The first layer's input must want a gradient: ZeRO-3 takes the gradients of a layer for complete with that one.
    model.enable_input_require_grads()


def keep_what_is_trained(module: torch.nn.Module) -> None:
    """Have the state of a module around an adapted model hold the adapter alone.

    The frozen weights are the base model's, which every start reads anyway: they belong into no checkpoint.
    """

    def drop(module: torch.nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        for name in [name for name in state if "lora_" not in name]:
            del state[name]

    module.register_state_dict_post_hook(drop)


def is_adapted(model: torch.nn.Module) -> bool:
    """Tell whether a model has an adapter."""
    return bool(getattr(model, "peft_config", None))


def write(model: Any, weights: dict[str, torch.Tensor], base: Path, folder: Path) -> None:
    """Write the adapter to `folder` in peft's layout; `weights` are the model's, by its own names."""
    folder.mkdir(parents=True)
    config = model.peft_config[NAME]
    config.base_model_name_or_path = str(base.resolve())
    config.inference_mode = True
    config.save_pretrained(str(folder))
    own = {
        f"base_model.model.{name.replace(f'.{NAME}.', '.')}": value.contiguous()
        for name, value in weights.items()
        if "lora_" in name
    }
    save_file(own, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def merged(model: Any, base: Path, adapter: Path, allowed: dict[str, Any]) -> Any:
    """Return the base model with the adapter's product added to its weights, a plain model without peft.

    Of a quantised base what its 4 bits stand for, not what they were made from: the adapter was trained beside those
    and makes up for their error, so that only with them the merged model is the one that was trained.
    """
    import peft

    whole = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=model.dtype, **allowed)
    for name, value in quantised.weights(model):
        layer: Any = whole.get_submodule(name.removesuffix(".weight").removesuffix(".base_layer"))
        layer.weight.data.copy_(value.T if isinstance(layer, Conv1D) else value)  # GPT-2's are quantised transposed
    return peft.PeftModel.from_pretrained(whole, str(adapter)).merge_and_unload()
