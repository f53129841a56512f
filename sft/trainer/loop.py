"""The training loop, read from top to bottom: from the newest checkpoint or the base model to the exported one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import torch

from sft.run import files
from sft.run.directory import Run
from sft.run.records import StateChanges, Status
from sft.settings.fields import Settings
from sft.steps import Steps
from sft.trainer import batching, distributed, gradients, loss, nonfinite, oom, process, trial
from sft.trainer import engine as engines
from sft.trainer.batching import MicroSteps
from sft.trainer.checkpoint import resume, save
from sft.trainer.data.rows import Rows
from sft.trainer.distributed import World
from sft.trainer.evaluation import evaluate as evaluation
from sft.trainer.model import export
from sft.trainer.timing import Clock, Phases
from sft.trainer.trackers.metrics import Metrics, NoMetrics


def train(
    run: Run,
    settings: Settings,
    base: Path,
    rows: Rows,
    held_out: Rows,
    phases: Phases,
    metrics: Metrics | NoMetrics,
    world: World,
) -> None:
    """Train from the newest checkpoint or the base model to the last step, and export (all ranks).

    Raises process.Stopped after saving a checkpoint, if the run was asked to stop.
    """
    steps = Steps.of(settings, len(rows))
    engine, packing, first, saver, limit = tried(run, settings, base, rows, steps, phases, world)
    # A run that was killed after a validation resumes before it: rank 0 knows, from what it has written.
    (is_validated,) = distributed.total([metrics.resume(first)], world)
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()  # of the steps alone, as the plan has it: an evaluation fills the card
    clock = Clock()

    for step in range(first, steps.total):
        if validation_is_due(step, settings) and not (step == first and is_validated):
            with clock.paused(), phases.spending("validation"):
                say(run, world, "evaluating", evaluating="during", answers=0, total_answers=0)
                val_loss = evaluation.mean_loss(engine, held_out, settings, packing, world)
                metrics.log(step, val_loss=val_loss)
                say(run, world, "training")

        torch.manual_seed(settings.seed + 1_000_003 * step + world.rank)  # dropout: a resumed run draws the same
        chosen = batching.rows_of_step(step, len(rows), settings.sequences_per_step, settings.seed)
        target_tokens = rows.target_tokens(chosen)
        learning_rate = steps.learning_rate(settings, step)
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate
        asked = process.stop_requested.is_set() or (world.is_main and run.stop_reason() is not None)
        micro_steps = batching.micro_steps(chosen, rows.lengths, settings, packing)
        with limit.kept(f"step {step + 1}", micro_steps):
            loss_sum, ranks_asked = optimizer_step(engine, rows, micro_steps, target_tokens, packing, asked, world)
        saver.check()
        done, mean_loss, stop = step + 1, loss_sum / target_tokens, ranks_asked > 0
        # DeepSpeed skips a step whose gradients are not finite, whatever the precision.
        if settings.precision != "fp16" and (engine.skipped_steps or not math.isfinite(mean_loss)):
            what = "gradient" if math.isfinite(mean_loss) else "loss"
            saver.finish()  # a step before this one
            nonfinite.fail(run, settings, done, what, chosen, world)
        tokens = int(rows.lengths[chosen].sum())
        clock.count(tokens)
        if done % settings.logging_steps == 0 or done == steps.total:
            metrics.log(
                done,
                epoch=done / steps.per_epoch,
                train_loss=mean_loss,
                train_lr=learning_rate,
                train_grad_norm=engines.grad_norm(engine),
                train_tokens=tokens,
                train_target_tokens=target_tokens,
                train_skipped_steps=engine.skipped_steps if settings.precision == "fp16" else None,
                perf_tokens_per_second=clock.tokens_per_second,
                perf_step_s=clock.step_s,
                mem_peak_gib=torch.cuda.max_memory_allocated() / 2**30 if world.device.type == "cuda" else None,
            )
        if world.is_main and (clock.state_is_due() or stop or done == steps.total):
            speed, left = clock.tokens_per_second, clock.step_s * (steps.total - done)
            run.tell(step=done, epoch=done / steps.per_epoch, loss=mean_loss, tokens_per_second=speed, time_left_s=left)
            print(
                f"step {done}/{steps.total}  loss {mean_loss:.4f}  lr {learning_rate:.3g}  {speed:,.0f} tokens/s",
                flush=True,
            )

        if stop or (settings.save_steps and done % settings.save_steps == 0 and done < steps.total):
            metrics.flush()
            with clock.paused(), phases.spending("saving"):
                if saver.is_writing:  # more than there is time for between saves
                    say(run, world, "saving")
                    saver.finish()
                    say(run, world, "training")
                saver.start(done)
                if stop:
                    say(run, world, "saving")
                    saver.finish()
        if stop or done == steps.total:
            phases.add(**{"first step": clock.first_s, "training": clock.all_s - clock.first_s})
        if stop:
            raise process.Stopped

    with phases.spending("saving"):
        say(run, world, "saving")
        metrics.flush()
        model = engine.module.model
        saver.save_before_export(steps.total, engines.weights(model) * model.dtype.itemsize)
        export.export(engine, base, run, settings, world)
        if world.is_main and not settings.save_steps:
            saver.forget(steps.total)
    engines.end(engine)


class Tried(NamedTuple):
    """An engine at its newest checkpoint, and what goes with it."""

    engine: Any
    packing: bool
    first: int  # steps that are done
    saver: save.Saver
    limit: oom.Limit


def tried(run: Run, settings: Settings, base: Path, rows: Rows, steps: Steps, phases: Phases, world: World) -> Tried:
    """Return an engine that has run its largest micro-step and kept every gradient of it (all ranks).

    ZeRO-3 gathers layers whole, or in parts if a layer would lose gradients otherwise. Raises SettingsError if it loses
    them in both ways.
    """
    config = files.read_json(run.ds_config, advice="start a new run with FRESH=1")
    for whole_layers in (True, False):
        with phases.spending("loading"):
            engine, received = engines.start(base, settings, config, world, whole_layers)
            with gradients.Misfits(engine) as misfits:
                packing = loss.take_fast_paths(engine, settings.packing, world)
            if misfits.reasons:
                print_once(world, f"{', '.join(misfits.reasons)}: ZeRO-3 gathers layers in parts, which is slower")
                engines.end(engine)
                del engine, misfits
                evaluation.give_memory_back(world)
                continue
            first = resume.resume(engine, run, world)
            saver = save.Saver(engine, run, settings.keep_checkpoints, world)
        if world.is_main:
            files.write_json(run.ds_config, received)
            run.update_state(
                "training",
                step=first,
                total_steps=steps.total,
                epoch=first / steps.per_epoch,
                tokens_per_second=None,  # the last attempt's are not this one's
                time_left_s=None,
            )
            print(f"step {first} of {steps.total}: {'resumed' if first else 'started'}", flush=True)
        limit = oom.Limit(run, settings, rows, steps, packing, saver, world)
        if first == steps.total:
            return Tried(engine, packing, first, saver, limit)
        largest = trial.largest(rows, steps, first, settings, packing)
        with phases.spending("loading"), limit.kept(f"the trial before step {first + 1}", largest):
            found = trial.run(engine, rows, largest, packing, world)
        if not found.lost:
            if found.without:
                print_once(world, f"{gradients.some(found.without)} get no gradient: the loss does not depend on them")
            return Tried(engine, packing, first, saver, limit)
        if not engines.gathers_whole_layers(engine):
            break
        print_once(world, f"gathered whole, layers lose gradients of {gradients.some(found.lost)}: in parts, slower")
        engines.end(engine)
        del engine, saver, limit
        evaluation.give_memory_back(world)
    raise gradients.refused(found, settings)


def optimizer_step(
    engine: Any,
    rows: Rows,
    micro_steps: MicroSteps,
    target_tokens: int,
    packing: bool,
    asked: bool,
    world: World,
) -> list[float]:
    """Train on a step's rows, cut into micro-steps. Return the sums over all ranks of loss and `asked` (all ranks).

    The sums are on their way before the optimizer's work begins, so that the host prepares the next step during it.
    """
    loss_sum = torch.zeros((), device=world.device)
    for i, per_rank in enumerate(micro_steps):
        batch = batching.collate(rows.take(per_rank[world.rank]), packing, world.device)
        loss_sum += engines.backward(engine, batch, target_tokens, world, last=i == len(micro_steps) - 1)
    sums = distributed.start_total([loss_sum, asked], world)
    with oom.part(oom.OPTIMIZER):
        engine.step()
    return sums.read()


def validation_is_due(step: int, settings: Settings) -> bool:
    """Tell whether the validation loss after `step` steps is wanted. The first and the last are evaluation's."""
    return bool(settings.eval_steps) and step > 0 and step % settings.eval_steps == 0


def print_once(world: World, text: str) -> None:
    """Print a line to the log (rank 0)."""
    if world.is_main:
        print(text, flush=True)


def say(run: Run, world: World, status: Status, **changes: Unpack[StateChanges]) -> None:
    """Write what the run does to `state.json` (rank 0)."""
    if world.is_main:
        run.tell(status, **changes)
