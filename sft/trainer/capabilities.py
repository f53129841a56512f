"""What a run's model can do on its device, as it was tried: one line for the user, one record in the run directory."""

from __future__ import annotations

from typing import Any

from deepspeed import DeepSpeedEngine

from sft.run import typed_json
from sft.run.directory import Run
from sft.run.records import Capabilities, Tried
from sft.settings.stages import Decided
from sft.trainer import attention
from sft.trainer.distributed import World
from sft.trainer.loss import TargetLoss
from sft.trainer.model import adapter, chance, experts, towers
from sft.trainer.model.parts import count_weights, true_shape
from sft.trainer.report import Reporter


def of(engine: DeepSpeedEngine, packing: bool, tried: Tried, settings: Decided, world: World) -> Capabilities:
    """Return what was found out about the model of an engine."""
    target_loss: TargetLoss = engine.module
    model = target_loss.model
    return Capabilities(
        model=type(model).__name__,
        device=world.device.type,
        precision=settings.precision,
        attention=attention.kernel_name(model.device.type, model.dtype) if packing else target_loss.own_attention,
        packing=packing,
        chunked_loss=target_loss.head_loss is not None,
        recomputes=bool(settings.gradient_checkpointing)
        and tried.recomputes
        and bool(model.supports_gradient_checkpointing),
        kernels=target_loss.kernels,
        scans=target_loss.scans,
        trained_share=round(count_weights(target_loss, only_trained=True) / count_weights(target_loss), 6),
        frozen=towers.in_words(model, target_loss.unused),
        dropout=chance.dropout(model.config),
        left_out=[*target_loss.left_out, *without_adapters(target_loss, settings), *all_layers(model)],
        copy=tried.copy,
        not_tried=tried.not_tried,
    )


def without_adapters(target_loss: TargetLoss, settings: Decided) -> list[str]:
    """Return a line for each kind of weights that no adapter reaches: stacked experts, and what layers share."""
    if not settings.lora_rank:
        return []
    model = target_loss.model
    modules, head = dict(model.named_modules()), model.get_output_embeddings()
    shared = {id(modules[name].weight): modules[name].weight for name in adapter.sharing(model)}
    shared.pop(id(getattr(head, "weight", None)), None)
    stacked = {} if settings.adapts_experts else experts.tensors(model, target_loss.unused)
    kinds = {"the experts": stacked.values(), "what several layers share": shared.values()}
    shares = {
        kind: sum(true_shape(parameter).numel() for parameter in found) / max(1, count_weights(model))
        for kind, found in kinds.items()
        if found
    }
    return [
        f"no adapter reaches {kind}, {share:.0%} of the weights: they stay as they are"
        for kind, share in shares.items()
    ]


def all_layers(model: Any) -> list[str]:
    """Return a line for a model that was made to leave out layers at random."""
    share = chance.dropped_layers(model.config)
    return [f"no layer is left out at random (layerdrop={share:g}): ranks would leave out others"] if share else []


def dropout_line(found: Capabilities) -> str:
    """Return in one line what is dropped at random; "" if nothing is."""
    shares = ", ".join(f"{name}={share:g}" for name, share in found.dropout.items())
    what = f"trained with the dropout of its config.json ({shares}), so losses differ with the number of GPUs"
    return f"{found.model}: {what}" if shares else ""


def line(found: Capabilities) -> str:
    """Return it in one line."""
    parts = [
        f"{found.attention} attention",
        "packed rows" if found.packing else "padded rows",
        "loss in chunks" if found.chunked_loss else "loss of whole logits",
        *([f"Liger's {', '.join(found.kernels)}"] if found.kernels else []),
        *found.scans,
    ]
    return f"{found.model}: {'; '.join(parts)}"


def frozen_line(target_loss: TargetLoss) -> str:
    """Return in one line what is frozen because text does not pass it; "" for a model for text alone."""
    unused, model = set(target_loss.unused), target_loss.model
    if not unused:
        return ""
    number = sum(true_shape(parameter).numel() for name, parameter in model.named_parameters() if name in unused)
    share = number / max(1, count_weights(model))
    words = towers.in_words(model, target_loss.unused)
    return f"{type(model).__name__}: text does not pass {words}: {share:.0%} of the weights, frozen and kept"


def note(
    engine: DeepSpeedEngine,
    packing: bool,
    tried: Tried,
    settings: Decided,
    run: Run,
    reporter: Reporter,
    world: World,
) -> None:
    """Print what a model can do, and write `capabilities.json` (rank 0)."""
    found = of(engine, packing, tried, settings, world)
    reporter.print(line(found))
    if said := frozen_line(engine.module):
        reporter.print(said)
    for said in (*without_adapters(engine.module, settings), *all_layers(engine.module.model)):
        reporter.print(f"{found.model}: {said}")
    if said := dropout_line(found):
        reporter.print(said)
    if world.is_main:
        typed_json.write(run.capabilities, found)
