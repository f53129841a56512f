"""DeepSpeed's engine around the model: the optimizer, what makes ZeRO cheap, and one micro-step.

What each choice here is worth stands in benchmarks/README.md.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.runtime import compiler
from deepspeed.runtime.zero import parameter_offload
from deepspeed.runtime.zero.stage_1_and_2 import INITIAL_MICRO_STEP_ID
from deepspeed.utils import nvtx, set_z3_leaf_modules, z3_leaf_module

from sft.settings.fields import Settings
from sft.sizes import PERSISTENT_SHARE, SUB_GROUP, reduce_bucket
from sft.trainer import distributed, oom
from sft.trainer.attention import has_kernels
from sft.trainer.batching import MicroBatch
from sft.trainer.distributed import Pending, World
from sft.trainer.loss import TargetLoss
from sft.trainer.model import adapter, quantised
from sft.trainer.model import load as models

# Liger's kernels that replace single modules. The loss is our own.
LIGER = {"rope": True, "swiglu": True, "rms_norm": True, "cross_entropy": False, "fused_linear_cross_entropy": False}


def start(
    path: Path, settings: Settings, config: dict[str, Any], world: World, whole_layers: bool = True
) -> tuple[Any, dict[str, Any]]:
    """Return the engine around the TargetLoss of the model in `path`, and what DeepSpeed received (all ranks).

    `config` is DeepSpeed's configuration, in which what depends on the model's size is filled in. ZeRO-3 gathers
    `whole_layers`, or else each of their modules by itself, which is slower and right for every model.
    """
    nvtx.enable_nvtx = False  # marks for a profiler, some 900 a step: a tenth of the Python of a small one
    import_muon()
    model = models.load(path, settings, world.device, config)
    model.config.use_cache = False
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if settings.lora_rank:
        adapter.add(model, settings)
    model.train()
    layers = decoder_layers(model)
    if settings.compile:
        torch._dynamo.config.recompile_limit = len(layers) + 8  # every layer is compiled once
        for layer in layers:
            layer.forward = torch.compile(layer.forward, dynamic=True)  # inside ZeRO's hooks, which it would break at
    elif world.device.type == "cuda" and has_kernels() and importlib.util.find_spec("liger_kernel"):
        take_liger_kernels(model, world)
    loss = TargetLoss(model)
    if settings.lora_rank:
        adapter.keep_what_is_trained(loss)
    filled = fill_in(config, loss, layers, world)
    if config["zero_optimization"]["stage"] == 3 and layers and whole_layers:
        # Gathered at once: hooks on every linear layer and norm take longer than short sequences take to compute.
        # Nothing larger: the gradients of a unit count as complete when that of its input is, and tokens have none.
        set_z3_leaf_modules(model, list({type(layer) for layer in layers}))
    optimizer = torch.optim.AdamW(
        parameter_groups(loss, settings.weight_decay),
        lr=settings.peak_learning_rate,
        fused=world.device.type == "cuda" or "offload_optimizer" in config["zero_optimization"],
    )
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    engine, *_ = deepspeed.initialize(model=loss, optimizer=optimizer, config=filled, dist_init_required=False)
    distributed.wait_without_limit()  # in the groups that it has made
    for name, buffer in buffers.items():
        # Without ZeRO-3, DeepSpeed rounds buffers to the weights' type too: rotary frequencies in bf16 put the 500th
        # token of a sequence a whole position away from where it is.
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, buffer.to(world.device))
    return engine, filled


def end(engine: Any) -> None:
    """Give up an engine, so that its memory can be given back (all ranks)."""
    engine.destroy()
    modules = parameter_offload.FWD_MODULE_STACK  # DeepSpeed's own list keeps every model for ever
    modules[:] = [module for module in modules if module is not engine.module]


def gathers_whole_layers(engine: Any) -> bool:
    """Tell whether ZeRO-3 gathers layers of this engine's model as a whole."""
    return any(z3_leaf_module(module) for module in engine.module.modules())


def take_liger_kernels(model: torch.nn.Module, world: World) -> None:
    """Replace modules of the model by Liger's; without an installation that loads, train without them and say so."""
    try:
        from transformers.integrations.liger import apply_liger_kernel  # imports peft, as adapter.py does if it must

        apply_liger_kernel(model, LIGER)
    except (ImportError, OSError) as error:
        if world.is_main:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"liger-kernel does not load ({reason}): training without it", flush=True)


def import_muon() -> None:
    """Import DeepSpeed's Muon, an optimizer that its engine asks for in order to see that it is not the one.

    Its kernels would be compiled, and torch's compiler takes longer to import than all of DeepSpeed.
    """
    compiled = compiler.compile
    compiler.compile = lambda: lambda function: function
    importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    compiler.compile = compiled


def decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the model's repeated layers: the list of modules that holds most weights."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) > 1]
    return list(max(lists, key=weights, default=[]))


def true_shape(parameter: torch.nn.Parameter) -> torch.Size:
    """Return a parameter's shape; a sharded one is empty and keeps it in `ds_shape`, a quantised one is packed."""
    return getattr(parameter, "ds_shape", quantised.true_shape(parameter))


def weights(module: torch.nn.Module) -> int:
    """Return the number of a module's weights, sharded or not."""
    return sum(true_shape(parameter).numel() for parameter in module.parameters())


def trained_weights(module: torch.nn.Module) -> int:
    """Return the number of a module's weights that are trained, sharded or not."""
    return sum(true_shape(parameter).numel() for parameter in module.parameters() if parameter.requires_grad)


def fill_in(
    config: dict[str, Any], module: torch.nn.Module, layers: list[torch.nn.Module], world: World
) -> dict[str, Any]:
    """Return DeepSpeed's configuration with the sizes that depend on the model; what the file says stays."""
    total = weights(module)
    sizes = {"reduce_bucket_size": reduce_bucket(trained_weights(module))}
    if config["zero_optimization"]["stage"] == 3:
        sizes["sub_group_size"] = SUB_GROUP
        sizes["stage3_prefetch_bucket_size"] = max(map(weights, layers), default=total)
        if world.device.type == "cuda" and "offload_param" not in config["zero_optimization"]:
            size_bytes = sum(true_shape(p).numel() * p.element_size() for p in module.parameters())
            if size_bytes <= PERSISTENT_SHARE * torch.cuda.get_device_properties(world.device).total_memory:
                sizes["stage3_param_persistence_threshold"] = total
    return {**config, "zero_optimization": sizes | config["zero_optimization"]}


def parameter_groups(module: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's groups: matrices and embeddings decay, biases and norms (one dimension) do not."""
    decay: list[torch.nn.Parameter] = []
    keep: list[torch.nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            (decay if len(true_shape(parameter)) > 1 else keep).append(parameter)
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def backward(engine: Any, batch: MicroBatch, target_tokens: float, world: World, last: bool) -> torch.Tensor:
    """Run one micro-step forward and backward (all ranks). Return the summed loss of this rank's targets.

    `target_tokens` counts the whole global batch. DeepSpeed averages gradients over the ranks, hence the factor.
    """
    engine.set_gradient_accumulation_boundary(last)
    with oom.part("forward"):
        loss = engine(*batch)
    with oom.part("backward"):
        engine.backward(loss * (world.world_size / target_tokens))
    return loss.detach()


def forget_gradients(engine: Any) -> None:
    """Forget the gradients of the micro-steps since the last step, as if they had not been.

    DeepSpeed has this only inside a step that fp16's scaler skips; what is done here is what it does there.
    """
    optimizer = engine.optimizer
    for parameter in engine.module.parameters():
        parameter.grad = None  # of weights whose gradient DeepSpeed has not taken over
    optimizer.zero_grad()
    if engine.zero_optimization_stage() == 3:
        return  # the next micro-step is the first one again, whose gradients are copied over what is there
    for kept in (optimizer.averaged_gradients, optimizer.all_grad_tensors):
        kept.update(dict.fromkeys(kept))
    optimizer.micro_step_id = INITIAL_MICRO_STEP_ID
    if optimizer.cpu_offload:
        optimizer.reset_cpu_buffers()


def moments_to_come(engine: Any) -> int:
    """Return the bytes that AdamW's two moments will take on this rank's device from the first step on, if not yet."""
    if engine.optimizer.optimizer.state or engine.zero_cpu_offload():
        return 0
    return 2 * 4 * trained_weights(engine.module) // engine.world_size


def grad_norm(engine: Any) -> Pending:
    """Return the gradient norm of the last step, before clipping."""
    return Pending(torch.as_tensor(engine.get_global_grad_norm()).reshape(1))
