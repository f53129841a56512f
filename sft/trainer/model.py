"""The model: loaded under ZeRO without a full copy per rank, its loss, its optimizer, and its export."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.nn.functional as F
import transformers
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from sft.settings import Settings
from sft.trainer import distributed
from sft.trainer.batching import IGNORE, MicroBatch
from sft.trainer.distributed import World

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class TargetLoss(torch.nn.Module):
    """A causal language model that returns the sum of its loss over the target tokens of a micro-batch.

    A sum, not a mean: the mean is over the targets of the whole global batch, which no micro-batch knows.
    """

    def __init__(self, model: transformers.PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the summed cross entropy in fp32, a scalar. All three are [sequences, positions]."""
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        is_target = labels != IGNORE
        return F.cross_entropy(logits[is_target].float(), labels[is_target], reduction="sum")


def load(path: Path, settings: Settings, config: dict[str, Any] | None = None) -> transformers.PreTrainedModel:
    """Return the model in `path`. With a DeepSpeed `config` of ZeRO-3 its parameters are sharded as they are read.

    (all ranks) under ZeRO-3: rank 0 reads the weights, every rank keeps its shard.
    """
    # transformers asks for this object, not for an argument; it holds for as long as the object lives.
    zero3 = HfDeepSpeedConfig(config) if config and config["zero_optimization"]["stage"] == 3 else None
    model_config = transformers.AutoConfig.from_pretrained(path)
    model_config.use_cache = zero3 is None and config is None
    # Initialising an embedding writes zeros into its padding row, which a sharded embedding does not have.
    padding, model_config.pad_token_id = getattr(model_config, "pad_token_id", None), None
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, config=model_config, dtype=DTYPES[settings.precision], attn_implementation="sdpa"
    )
    model.config.pad_token_id = padding
    model.config.use_cache = True
    del zero3
    return model


def start_engine(path: Path, settings: Settings, config: dict[str, Any], world: World) -> Any:
    """Return DeepSpeed's engine around the model's TargetLoss, with AdamW (all ranks)."""
    model = load(path, settings, config)
    model.config.use_cache = False
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    loss = TargetLoss(model)
    offloaded = "offload_optimizer" in config["zero_optimization"]
    optimizer = torch.optim.AdamW(
        parameter_groups(loss, settings.weight_decay),
        lr=settings.learning_rate,
        fused=world.device.type == "cuda" or offloaded,
    )
    engine, *_ = deepspeed.initialize(model=loss, optimizer=optimizer, config=config, dist_init_required=False)
    return engine


def parameter_groups(module: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's groups: matrices and embeddings decay, biases and norms (one dimension) do not."""
    decay: list[torch.nn.Parameter] = []
    keep: list[torch.nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            shape = getattr(parameter, "ds_shape", parameter.shape)  # a sharded parameter keeps its true shape there
            (decay if len(shape) > 1 else keep).append(parameter)
    groups = [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def backward(engine: Any, batch: MicroBatch, target_tokens: int, world: World, last: bool) -> torch.Tensor:
    """Run one micro-step forward and backward (all ranks). Return the summed loss of this rank's targets.

    `target_tokens` counts the whole global batch. DeepSpeed averages gradients over the ranks, hence the factor.
    """
    engine.set_gradient_accumulation_boundary(last)
    loss = engine(*batch)
    engine.backward(loss * (world.world_size / target_tokens))
    return loss.detach()


def export(engine: Any, base: Path, folder: Path, world: World) -> None:
    """Write the trained model to `folder` in Hugging Face layout, complete or not at all (all ranks).

    It is loaded again and compared bit by bit before the folder gets its name: a model that was saved without its
    tied weights, or half, is found out here and not by its user.
    """
    if engine.zero_optimization_stage() == 3:
        weights = engine._zero3_consolidated_16bit_state_dict()  # the public save writes a .bin file; on rank 0
    else:
        weights = engine.module.state_dict()
    if world.is_main:
        temporary = folder.with_name(f".{folder.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            named = {name.removeprefix("model."): value.detach().cpu() for name, value in weights.items()}
            write_model(engine.module.model, named, base, temporary)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    distributed.barrier()


def write_model(
    model: transformers.PreTrainedModel, weights: dict[str, torch.Tensor], base: Path, folder: Path
) -> None:
    """Write weights, configuration and tokenizer to `folder`, load them again and compare."""
    with torch.device("meta"):
        whole = type(model)(model.config)
    whole.generation_config = model.generation_config
    whole.load_state_dict(weights, strict=False, assign=True)
    whole.tie_weights()
    whole.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=next(iter(weights.values())).dtype)
    loaded = reloaded.state_dict()
    different = [name for name, value in weights.items() if name not in loaded or not torch.equal(loaded[name], value)]
    missing = loaded.keys() - weights.keys() - set(reloaded.all_tied_weights_keys)
    if different or missing:
        raise RuntimeError(f"{folder}: does not load as it was saved (differs in {[*different, *missing][:3]})")


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Switch dropout off and gradients off for a while."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)
