"""An engine that is ready to train: at its newest checkpoint, and tested with the largest micro-step to come."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from deepspeed import DeepSpeedEngine

from sft.run import files, typed_json
from sft.run.directory import Run
from sft.run.records import Prepared, Tried
from sft.settings.stages import Effective
from sft.steps import Steps
from sft.trainer import capabilities, compiled, dry_run, fast_paths, gradients, oom
from sft.trainer.checkpoint import resume
from sft.trainer.checkpoint.save import Saver
from sft.trainer.data.rows import Rows
from sft.trainer.distributed import World
from sft.trainer.engine import end_engine, gathers_whole_layers, start_engine
from sft.trainer.gradients import weights_in_words
from sft.trainer.model.load import free_unused_memory
from sft.trainer.report import Reporter


class Ready(NamedTuple):
    """An engine that is ready, and its companions."""

    engine: DeepSpeedEngine
    packing: bool  # whether this model keeps packed sequences apart, and PACKING=1
    first_step: int  # steps that are done
    saver: Saver
    memory: oom.Guard


def start(
    run: Run, settings: Effective, base: Path, rows: Rows, steps: Steps, reporter: Reporter, world: World
) -> Ready:
    """Start DeepSpeed's engine from the newest checkpoint, or from the model in `base` (all ranks).

    ZeRO-3 gathers whole layers, which is fast, or each module in them, if layers would lose gradients otherwise. Raises
    SettingsError if gradients are lost both ways, and RunFailed if the largest micro-step does not fit into memory.
    """
    ready = try_engine(run, settings, base, rows, steps, reporter, world, whole_layers=True)
    if ready is None:
        free_unused_memory(world.device)  # the engine of the first attempt
        ready = try_engine(run, settings, base, rows, steps, reporter, world, whole_layers=False)
    assert ready is not None  # otherwise the second attempt has raised
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()  # the plan is about the steps alone: loading and evaluation fill the card
    return ready


def try_engine(
    run: Run,
    settings: Effective,
    base: Path,
    rows: Rows,
    steps: Steps,
    reporter: Reporter,
    world: World,
    whole_layers: bool,
) -> Ready | None:
    """Start an engine and run its largest micro-step (all ranks). Return None if whole layers lose gradients."""
    config = run.deepspeed_config()
    tried = typed_json.read(run.prepared, Prepared).tried or Tried()
    packs = settings.packing and tried.packing
    with reporter.phase("loading"):
        engine, received = start_engine(base, settings, config, world, whole_layers, tried)
        # With COMPILE=1 each way that is tried would be compiled, and count against the limit (engine.py).
        with gradients.Misfits(engine) as misfits, torch.compiler.set_stance(compiled.UNCOMPILED):
            longest, most_tokens = int(rows.lengths.max()), settings.max_tokens_per_micro_step
            packing = fast_paths.take_fast_paths(engine, packs, world, longest, most_tokens)
        if misfits.reasons:
            give_up(engine, ", ".join(misfits.reasons), reporter)
            return None
        if settings.compile:
            compiled.use(engine, rows, settings, packing, world)
        capabilities.note(engine, packing, tried, settings, run, reporter, world)
        first_step = resume.resume(engine, run, world)
        saver = Saver(engine, run, settings.keep_checkpoints, world)
    if world.is_main:
        files.write_json(run.ds_config, received.content)
    reporter.begin_training(first_step, steps)
    memory = oom.Guard(run, settings, rows, steps, packing, saver, world)
    ready = Ready(engine, packing, first_step, saver, memory)
    if first_step == steps.total:
        return ready
    largest = dry_run.largest_micro_steps(rows, steps, first_step, settings, packing)
    with reporter.phase("loading"), memory.guard(f"the dry run before step {first_step + 1}", largest):
        found = dry_run.run(engine, rows, largest, packing, world)
    if found.lost and gathers_whole_layers(engine):
        give_up(engine, f"gathered whole, layers lose gradients of {weights_in_words(found.lost)}", reporter)
        return None
    if found.lost:
        raise gradients.refused(found, settings)
    if found.without:
        reporter.print(f"{weights_in_words(found.without)} get no gradient: the loss does not depend on them")
    return ready


def give_up(engine: DeepSpeedEngine, reason: str, reporter: Reporter) -> None:
    """End an engine that must not gather whole layers, and print why the next one gathers less (all ranks)."""
    reporter.print(f"{reason}: ZeRO-3 gathers layers in parts, which is slower")
    end_engine(engine)
