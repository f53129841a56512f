"""LoRA (Hu et al. 2021) through peft: trains small matrices beside the frozen linear layers.

Only a run with an adapter imports peft: that takes a second, and imports bitsandbytes, which initialises CUDA.
"""

from __future__ import annotations

import collections
import copy
import difflib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D

from sft import model_files
from sft.errors import SettingsError, wrong
from sft.run.records import TemplateFacts
from sft.settings.fields import ALL_LINEAR, EXPERTS, TINY, Settings
from sft.trainer.model import experts, generation, licence, older_names, published, quantised

INSIDE_MAMBA = ("out_proj", "conv1d")  # layers whose weights Mamba's kernels read themselves, past an adapter
NAME = "default"  # peft's name for the only adapter of a model


def add(model: transformers.PreTrainedModel, settings: Settings, unused: Collection[str] = ()) -> None:
    """Freeze a model's weights and put an adapter beside its linear layers, the same on every rank.

    Not beside those whose weights are among `unused`: text does not pass them (towers.py). Nor beside those that share
    their weights. Raises SettingsError if LORA_TARGETS names such layers, or something other than layers of the model.
    """
    import peft

    targets = settings.lora_targets
    check_targets(model, settings, unused)
    beside = [name for name in linear_layers(model) if f"{name}.weight" in unused]
    all_linear = ALL_LINEAR in settings.adapted_layers
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout,
        target_modules=ALL_LINEAR if all_linear else target_names(settings),
        target_parameters=experts.names(model, unused) if settings.adapts_experts else None,
    )  # fmt: skip
    if all_linear:
        beside += [*other_linear(model), *sharing(model)]
    config.exclude_modules = beside or None
    torch.manual_seed(settings.seed)
    try:
        try:
            with experts.targets_as_written():
                model.add_adapter(config)
        except ValueError as error:
            if not all_linear or "Mamba" not in str(error):
                raise
            config.exclude_modules = [*INSIDE_MAMBA, *beside]
            model._hf_peft_config_loaded = False  # which the attempt has set
            with experts.targets_as_written():
                model.add_adapter(config)
    except ValueError as error:
        what = f"does not fit this model ({str(error).splitlines()[0]})"
        remedy = "use all-linear or names of its linear layers, such as q_proj,v_proj"
        raise SettingsError([wrong("LORA_TARGETS", targets, what, remedy)]) from None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.to(model.dtype)
    # ZeRO-3 takes a layer's gradients for complete once that of its input is there. So the first layer's input needs
    # one too, although the embeddings that compute it are frozen.
    model.get_input_embeddings().register_forward_hook(require_gradient)


def other_linear(model: torch.nn.Module) -> list[str]:
    """Return the names of linear layers that compute something else too, such as a router that returns a choice."""
    own = ("torch.", "transformers.pytorch_utils", "bitsandbytes.")
    layers = {name: layer for name, layer in linear_layers(model).items() if not type(layer).__module__.startswith(own)}
    return [name for name, layer in layers.items() if not returns_a_product(layer)]


def returns_a_product(layer: Any) -> bool:
    """Tell whether a linear layer of a family's own returns one tensor of its output's size. It computes nothing."""
    sizes = (layer.in_features, layer.out_features) if isinstance(layer, torch.nn.Linear) else (layer.nx, layer.nf)
    shapes = {"weight": sizes[::-1] if isinstance(layer, torch.nn.Linear) else sizes, "bias": sizes[1:]}
    trial = copy.copy(layer)
    vars(trial).pop("forward", None)  # where accelerate has put one that moves what it gets to the real layer's device
    trial._parameters = {
        name: None if value is None else torch.empty(shapes.get(name, value.shape), device="meta")
        for name, value in layer._parameters.items()
    }
    try:
        output = trial(torch.empty(1, 3, sizes[0], device="meta"))
    except Exception:  # of any kind: the code of a model family
        return False
    return isinstance(output, torch.Tensor) and output.shape == (1, 3, sizes[1])


def require_gradient(_module: torch.nn.Module, _input: object, output: torch.Tensor) -> torch.Tensor:
    """Let an embedding's output have a gradient. A copy does: some families scale what they get in place."""
    return output.requires_grad_().clone() if not output.requires_grad else output


def sharing(model: Any) -> list[str]:
    """Return the names of linear layers whose weights another module has too, such as a head tied to the embeddings.

    Each would have an adapter of its own, and a merged model has but one weight for all of them.
    """
    found = [parameter for module in model.modules() for parameter in module.parameters(recurse=False)]
    count = collections.Counter(map(id, found))
    return [name for name, layer in linear_layers(model).items() if count[id(layer.weight)] > 1]


def target_names(settings: Settings) -> list[str]:
    """Return the names of layers in LORA_TARGETS."""
    return [name for name in settings.adapted_layers if name not in (ALL_LINEAR, EXPERTS)]


def linear_layers(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Return a model's linear layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)}


def check_targets(model: Any, settings: Settings, unused: Collection[str] = ()) -> None:
    """Raise SettingsError if a name in LORA_TARGETS fits no linear layer: peft would silently use only the others.

    Or if it fits one that shares its weights. Layers whose weights are `unused` do not count. The model's weights may
    be on the meta device.
    """
    modules = dict(model.named_modules())
    linear = {name for name in linear_layers(model) if f"{name}.weight" not in unused}
    last = sorted({name.rpartition(".")[2] for name in linear if modules[name] is not model.get_output_embeddings()})
    problems = experts.problems(model, settings, unused) if settings.adapts_experts else []
    for target in target_names(settings):
        fitting = {name for name in modules if name == target or name.endswith(f".{target}")}  # as peft compares
        if shared := sorted(fitting & linear & set(sharing(model))):
            what = f"{shared[0]} shares its weights with another layer, which a merged model cannot keep apart"
            problems.append(wrong("LORA_TARGETS", settings.lora_targets, what, f"leave {target} out"))
            continue
        if fitting & linear:
            continue
        near = difflib.get_close_matches(target, last, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"use all-linear or some of {','.join(last)}"
        fits_nothing = "is not a linear layer" + " that text passes" * bool(unused)
        what = f"{target} {fits_nothing if fitting else 'is not a layer of this model'}"
        problems.append(wrong("LORA_TARGETS", settings.lora_targets, what, remedy))
    if problems:
        raise SettingsError(problems)


def save_only_the_adapter(module: torch.nn.Module) -> None:
    """Leave the frozen weights out of a module's `state_dict`, and so out of the checkpoints.

    They are the base model's, which every start reads anyway.
    """

    def drop(module: torch.nn.Module, state: dict[str, object], prefix: str, metadata: Any) -> None:
        for name in [name for name in state if "lora_" not in name]:
            del state[name]

    module.register_state_dict_post_hook(drop)


def is_adapted(model: torch.nn.Module) -> bool:
    """Whether a model has an adapter."""
    return bool(getattr(model, "peft_config", None))


def write(
    model: Any,
    weights: dict[str, torch.Tensor],
    base: Path,
    template: TemplateFacts | None,
    folder: Path,
    settings: Settings,
) -> list[str]:
    """Write the adapter to `folder` in peft's layout, with the tokenizer. `weights` are the whole model's, by name.

    It names the base model so that peft's AutoPeftModelForCausalLM.from_pretrained(folder) finds it, on other machines
    too if it is from the hub. Returns lines about what others make of it, for the user.
    """
    folder.mkdir(parents=True)
    config = model.peft_config[NAME]
    config.base_model_name_or_path, config.revision = base_name(base, settings)
    config.inference_mode = True
    config.save_pretrained(str(folder))
    said = list[str]()
    if moved := experts.moved_by_peft(model.config.model_type, config.target_modules or []):
        others = f"peft alone would take {', '.join(moved)} for the experts'"
        said.append(f"{folder.name}/: {others}; use final/, which is merged")
    if settings.adapts_experts:
        without = "programs that do not stack experts in one tensor (transformers 4) load it without theirs"
        said.append(f"{folder.name}/: {without}; there, use final/, which is merged")
    own = {
        f"base_model.model.{name.replace(f'.{NAME}.', '.')}": value.contiguous()
        for name, value in weights.items()
        if "lora_" in name
    }
    save_file(own, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    tokenizer = generation.exported_tokenizer(base, template, settings.trust_remote_code)
    said += older_names.write_tokenizer(tokenizer, base, folder, settings.trust_remote_code)
    licence.copy(base, folder)
    return said


def base_name(base: Path, settings: Settings) -> tuple[str, str | None]:
    """Return the base model's name, and its commit if it is from the hub. `base` is the folder it was loaded from."""
    if settings.model_name == TINY:
        return str(base), None
    if model_files.local_model(settings):
        return settings.model_name, None
    return settings.model_name, base.name if base.parent.name == "snapshots" else settings.model_revision


def merged(model: Any, base: Path, adapter: Path, permissions: dict[str, object], unused: Collection[str] = ()) -> Any:
    """Return the base model with the adapter's product added to its weights: a plain model without peft.

    For a quantised base, merge into the dequantised weights, not the original ones: the adapter was trained on them,
    and has learnt to make up for their error. Those that are `unused` stay the original ones: text does not pass them.
    """
    import peft

    whole = published.from_pretrained(base, None, dtype=model.dtype, **permissions)
    for name, value in quantised.weights(model):
        if name in unused:
            continue
        layer: Any = whole.get_submodule(name.removesuffix(".weight").removesuffix(".base_layer"))
        # The weights of GPT-2's layers are transposed before they are quantised.
        layer.weight.data.copy_(value.T if isinstance(layer, Conv1D) else value)
    with experts.targets_as_written():
        return peft.PeftModel.from_pretrained(whole, str(adapter)).merge_and_unload()
