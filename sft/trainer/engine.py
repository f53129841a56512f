"""DeepSpeed's engine around the model: the optimizer, what makes ZeRO cheap, and one micro-step.

benchmarks/README.md has a measurement of each choice made here.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import deepspeed
import torch
import transformers
from deepspeed import DeepSpeedEngine
from deepspeed.runtime import compiler
from deepspeed.runtime.zero import parameter_offload
from deepspeed.runtime.zero.stage_1_and_2 import INITIAL_MICRO_STEP_ID
from deepspeed.utils import nvtx, set_z3_leaf_modules, z3_leaf_module

from sft.run.records import Tried
from sft.settings.deepspeed import DsConfig
from sft.settings.stages import Decided
from sft.sizes import PERSISTENT_SHARE, SMALL_CHUNK_BYTES, SUB_GROUP, reduce_bucket
from sft.trainer import distributed, oom
from sft.trainer.batching import MicroBatch
from sft.trainer.distributed import Pending, World
from sft.trainer.loss import TargetLoss
from sft.trainer.model import adapter, chance, liger, scans, towers
from sft.trainer.model.load import load_model
from sft.trainer.model.parts import count_weights, decoder_layers, true_shape
from sft.trainer.optimizer import keep_one_copy, optimizer_for


def start_engine(
    path: Path,
    settings: Decided,
    config: DsConfig,
    world: World,
    whole_layers: bool = True,
    tried: Tried | None = None,
) -> tuple[DeepSpeedEngine, DsConfig]:
    """Return DeepSpeed's engine around the TargetLoss of the model in `path`, and the configuration that it got.

    (All ranks.) The configuration is `config` with the sizes that depend on the model. ZeRO-3 gathers `whole_layers`,
    or else each module in them by itself, which is slower and right for every model. What was `tried` on a copy of the
    model and found wrong is left out.
    """
    nvtx.enable_nvtx = False  # NVTX ranges for profilers: about 900 a step, 10 % of the host time of a small step
    import_muon()
    tried = tried or Tried()
    model, unused = model_to_train(path, settings, config, world, tried.recomputes)
    layers = decoder_layers(model, unused)
    kernels = take_faster_kernels(model, layers, settings, world, tried.without_kernels)
    loss = TargetLoss(model)
    loss.leave_out(tried)
    for line in tried.left_out if world.is_main else []:
        print(line, flush=True)
    loss.kernels, loss.unused = kernels, unused
    loss.scans = scans.take(model, tried)
    if loss.head_loss and settings.optimizer_bits == 16:
        loss.head_loss.chunk_bytes = SMALL_CHUNK_BYTES
    if settings.lora_rank:
        adapter.save_only_the_adapter(loss)
    filled = fill_in(config, loss, layers, world)
    if config.stage == 3 and layers and whole_layers:
        # A layer's weights are gathered at once: hooks on each of its linear layers and norms take longer than short
        # sequences take to compute. Nothing larger is gathered at once: DeepSpeed takes the gradients of a unit for
        # complete when that of its input is, and a whole model's input, token ids, has none.
        set_z3_leaf_modules(model, list({type(layer) for layer in layers}))
    optimizer = optimizer_for(parameter_groups(loss, settings.weight_decay), settings, config, world)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    engine, *_ = deepspeed.initialize(model=loss, optimizer=optimizer, config=filled.content, dist_init_required=False)
    distributed.wait_without_limit()  # in the process groups that DeepSpeed has just made
    if settings.optimizer_bits == 16:
        keep_one_copy(engine)
    for name, buffer in buffers.items():
        # Without ZeRO-3, DeepSpeed rounds buffers to the weights' type too: rotary frequencies in bf16 put the 500th
        # token of a sequence a whole position away from where it is.
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, buffer.to(world.device))
    return engine, filled


def model_to_train(
    path: Path, settings: Decided, config: DsConfig, world: World, recomputes: bool = True
) -> tuple[transformers.PreTrainedModel, list[str]]:
    """Load a model with everything that training changes in it, such as an adapter (all ranks).

    Return it and the names of the weights that text does not pass, which are frozen. `recomputes`: its gradients are
    right with GRADIENT_CHECKPOINTING.
    """
    model = load_model(path, settings, world.device, config)
    unused = towers.freeze(model)
    chance.keep_every_layer(model)
    model.config.use_cache = False
    if not recomputes:
        pass  # and said so
    elif settings.gradient_checkpointing and model.supports_gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    elif settings.gradient_checkpointing and world.is_main:
        print(
            f"{type(model).__name__} cannot recompute activations: training without GRADIENT_CHECKPOINTING", flush=True
        )
    if settings.lora_rank:
        adapter.add(model, settings, unused)
    model.train()
    return model, unused


def take_faster_kernels(
    model: torch.nn.Module, layers: list[torch.nn.Module], settings: Decided, world: World, without: list[str]
) -> list[str]:
    """Compile the layers with COMPILE=1; otherwise use Liger's kernels, if it is installed. Return their names."""
    if settings.compile:
        torch._dynamo.config.recompile_limit = len(layers) + 8  # each layer is compiled once
        for layer in layers:
            # The forward inside ZeRO's hooks: compiling the hooks too would break the graph at each of them.
            layer.forward = torch.compile(layer.forward, dynamic=True)
    elif liger.is_usable(world.device):
        return take_liger_kernels(model, world, without)
    return []


def end_engine(engine: DeepSpeedEngine) -> None:
    """End an engine, so that its memory can be freed (all ranks)."""
    engine.destroy()
    modules = parameter_offload.FWD_MODULE_STACK  # a list of DeepSpeed's own, which would keep every model alive
    modules[:] = [module for module in modules if module is not engine.module]


def gathers_whole_layers(engine: DeepSpeedEngine) -> bool:
    """Tell whether ZeRO-3 gathers whole layers of this engine's model."""
    return any(z3_leaf_module(module) for module in engine.module.modules())


def take_liger_kernels(model: torch.nn.Module, world: World, without: list[str] | None = None) -> list[str]:
    """Replace modules of the model by Liger's. Return what is used; what is left out is printed."""
    said = list[str]()
    used = list(liger.apply_all(model, without or [], said))
    for line in said if world.is_main else []:
        print(line, flush=True)
    return used


def import_muon() -> None:
    """Import DeepSpeed's Muon optimizer without compiling its kernels.

    DeepSpeed's engine imports it to see whether it is the one in use. Compiling imports torch's compiler, which takes
    longer than importing all of DeepSpeed.
    """
    compiled = compiler.compile
    compiler.compile = lambda: lambda function: function
    importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    compiler.compile = compiled


def fill_in(config: DsConfig, module: TargetLoss, layers: list[torch.nn.Module], world: World) -> DsConfig:
    """Return DeepSpeed's configuration with the sizes that depend on the model. What the file says takes precedence."""
    total = count_weights(module)
    sizes = {"reduce_bucket_size": reduce_bucket(count_weights(module, only_trained=True))}
    if config.stage == 3:
        sizes["sub_group_size"] = SUB_GROUP
        # One layer ahead: its weights travel while the layer before it computes.
        layer = sizes["stage3_prefetch_bucket_size"] = max(map(count_weights, layers), default=total)
        if world.device.type == "cuda" and "offload_param" not in config.zero:
            # A small model's weights stay gathered: sharding them would save little memory and cost every pass.
            size_bytes = sum(true_shape(p).numel() * p.element_size() for p in module.parameters())
            if size_bytes <= PERSISTENT_SHARE * card_bytes(world.device):
                sizes["stage3_param_persistence_threshold"] = total
        if config.has_16_bit_states and "stage3_param_persistence_threshold" not in sizes:
            # Memory is scarcer than time: what is kept between forward and backward is a layer and the head.
            live = layer + (count_weights(module.head_loss) if module.head_loss else 0)
            sizes |= {"stage3_max_live_parameters": live, "stage3_max_reuse_distance": live}
    return config.with_zero_defaults(sizes)


def card_bytes(device: torch.device) -> int:
    """Return the bytes of a card's memory."""
    return int(torch.cuda.get_device_properties(device).total_memory)


def parameter_groups(module: torch.nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Return AdamW's groups: matrices and embeddings decay, biases and norms (one dimension) do not."""
    decay: list[torch.nn.Parameter] = []
    keep: list[torch.nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            (decay if len(true_shape(parameter)) > 1 else keep).append(parameter)
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def backward(
    engine: DeepSpeedEngine, batch: MicroBatch, target_tokens: float, world: World, last: bool
) -> torch.Tensor:
    """Run one micro-step forward and backward (all ranks). Return the summed loss of this rank's targets, a scalar.

    `target_tokens` counts those of the whole global batch, so that the gradient is that of the mean over all of them,
    however they are split into micro-steps. `last`: the next call on the engine is `step`.
    """
    engine.set_gradient_accumulation_boundary(last)
    with oom.part("forward"):
        loss = engine(*batch)
    with oom.part("backward"):
        # DeepSpeed averages gradients over the ranks; multiplied by their number, the average is the sum.
        engine.backward(loss * (world.world_size / target_tokens))
    return loss.detach()


def forget_gradients(engine: DeepSpeedEngine) -> None:
    """Forget the gradients since the last optimizer step, as if these micro-steps had not run.

    DeepSpeed has no function for it. It does the same inside a step that fp16's scaler skips.
    """
    optimizer = engine.optimizer
    for parameter in engine.module.parameters():
        parameter.grad = None  # of weights whose gradient DeepSpeed has not taken over
    optimizer.zero_grad()
    if engine.zero_optimization_stage() == 3:
        return  # the next micro-step counts as the first, and overwrites the gradients of these
    for gradients in (optimizer.averaged_gradients, optimizer.all_grad_tensors):
        gradients.update(dict.fromkeys(gradients))
    optimizer.micro_step_id = INITIAL_MICRO_STEP_ID
    if optimizer.cpu_offload:
        optimizer.reset_cpu_buffers()


def missing_moments_bytes(engine: DeepSpeedEngine) -> int:
    """Return the bytes of AdamW's two moments on this rank's GPU, if its first step has yet to allocate them."""
    if engine.optimizer.optimizer.state or engine.zero_cpu_offload():
        return 0
    element = 2 if engine.bf16_optimizer_states() else 4
    return 2 * element * count_weights(engine.module, only_trained=True) // engine.world_size


def grad_norm(engine: DeepSpeedEngine) -> Pending:
    """Return the norm of the last step's whole gradient, before clipping."""
    return Pending(torch.as_tensor(engine.get_global_grad_norm()).reshape(1))
