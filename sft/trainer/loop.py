"""The training loop, from the newest checkpoint or the base model to the last step. Read it from top to bottom."""

from __future__ import annotations

from pathlib import Path

import torch
from deepspeed import DeepSpeedEngine

from sft.run.directory import Run
from sft.run.records import Prepared
from sft.settings.stages import Effective
from sft.steps import Steps
from sft.trainer import batching, distributed, nonfinite, oom, process, startup
from sft.trainer.batching import MicroSteps
from sft.trainer.checkpoint.save import Saver
from sft.trainer.data.rows import Rows
from sft.trainer.distributed import World
from sft.trainer.engine import backward, grad_norm
from sft.trainer.evaluation import parts
from sft.trainer.evaluation.evaluate import mean_losses
from sft.trainer.finish import finish
from sft.trainer.report import Reporter, StepResult


def train(
    run: Run,
    settings: Effective,
    prepared: Prepared,
    rows: Rows,
    validation_rows: Rows,
    reporter: Reporter,
    world: World,
) -> None:
    """Train the base model to the last step and export it to `final/` (all ranks).

    Raises process.Stopped, after saving a checkpoint, if the run was asked to stop.
    """
    base, steps = Path(prepared.model), Steps.of(settings, len(rows))
    engine, packing, first_step, saver, memory = startup.start(run, settings, base, rows, steps, reporter, world)
    # A run that was killed right after a validation resumes before it. Rank 0 knows from its metrics that it need not
    # validate again.
    (is_validated,) = distributed.total([reporter.begin_steps(first_step)], world)

    for step in range(first_step, steps.total):
        # Every EVAL_STEPS steps: the loss on the validation rows (all ranks).
        if validation_is_due(step, settings) and not (step == first_step and is_validated):
            with reporter.validation():
                losses = mean_losses(engine, validation_rows, settings, packing, world)
            reporter.log(step, parts.named_losses(prepared.parts, validation_rows, losses))

        # (seed, epoch) alone decides which rows this step trains on, and the lengths of the rows decide how they are
        # split into micro-steps over the ranks. So every rank computes the same by itself, also after a resume.
        chosen = batching.rows_of_step(step, len(rows), settings.sequences_per_step, settings.seed)
        micro_steps = batching.micro_steps(chosen, rows.lengths, settings, packing)
        target_tokens = rows.target_tokens(chosen)
        torch.manual_seed(settings.seed + 1_000_003 * step + world.rank)  # dropout: a resumed run draws the same
        learning_rate = steps.learning_rate(settings, step)
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate

        # Forward, backward, optimizer step, and the one all-reduce of a step (all ranks). A rank that runs out of
        # memory here lowers the budget of a micro-step, and the ranks start again from the last checkpoint.
        stop = stop_is_requested(run, world)
        with memory.guard(f"step {step + 1}", micro_steps):
            loss_sum, stops = optimizer_step(engine, rows, micro_steps, target_tokens, packing, stop, world)
        loss, stop = loss_sum / target_tokens, stops > 0  # one rank with a stop request is enough
        saver.check()  # raises the error of a save in the background
        if problem := nonfinite.problem(engine, loss, settings):
            saver.finish()  # the checkpoint of an earlier step, which was finite
            nonfinite.fail(run, settings, step + 1, problem, rows.row_of[chosen], world)

        skipped_steps = engine.skipped_steps if settings.precision == "fp16" else None
        tokens = int(rows.lengths[chosen].sum())
        norm = grad_norm(engine) if reporter.is_logged(step + 1, steps) else None
        result = StepResult(step + 1, loss, learning_rate, norm, tokens, target_tokens, skipped_steps, stop)
        reporter.step(result, steps)

        # Every SAVE_STEPS steps, and before a stop: a checkpoint, written while training continues (all ranks).
        if stop or save_is_due(step + 1, steps, settings):
            save(saver, step + 1, stop, reporter)
        if stop:
            raise process.Stopped

    finish(engine, saver, steps, prepared, run, settings, reporter, world)


def optimizer_step(
    engine: DeepSpeedEngine,
    rows: Rows,
    micro_steps: MicroSteps,
    target_tokens: int,
    packing: bool,
    stop: bool,
    world: World,
) -> list[float]:
    """Train on the rows of one step (all ranks). Return the sums over all ranks of the loss and of `stop`.

    `target_tokens` are those of the whole step: each target's loss has the same weight, however rows are split.
    """
    loss_sum = torch.zeros((), device=world.device)
    for i, rows_per_rank in enumerate(micro_steps):
        batch = batching.collate(rows.take(rows_per_rank[world.rank]), packing, world.device)
        loss_sum += backward(engine, batch, target_tokens, world, last=i == len(micro_steps) - 1)
    # Started before the optimizer's work is queued: the sums arrive while the GPU is still busy with that, and the host
    # prepares the next step meanwhile.
    sums = distributed.start_total([loss_sum, stop], world)
    with oom.part(oom.OPTIMIZER):
        engine.step()
    return sums.read()


def stop_is_requested(run: Run, world: World) -> bool:
    """Tell whether this rank got a signal or, on rank 0 alone, whether the run directory has a stop file."""
    return process.stop_requested.is_set() or (world.is_main and run.stop_reason() is not None)


def validation_is_due(step: int, settings: Effective) -> bool:
    """Tell whether to validate after `step` steps. Evaluation does it before the first and after the last."""
    return bool(settings.eval_steps) and step > 0 and step % settings.eval_steps == 0


def save_is_due(done: int, steps: Steps, settings: Effective) -> bool:
    """Tell whether to save after `done` steps. After the last step, `finish` does that."""
    return bool(settings.save_steps) and done % settings.save_steps == 0 and done < steps.total


def save(saver: Saver, done: int, stop: bool, reporter: Reporter) -> None:
    """Start to save a checkpoint after `done` steps; before a stop, wait until it is complete (all ranks)."""
    reporter.flush()  # a run that resumes from this checkpoint needs the metrics of all its steps
    with reporter.pause("saving"):
        if saver.is_writing:  # SAVE_STEPS is shorter than a save takes
            reporter.tell("saving")
            saver.finish()
            reporter.tell("training")
        saver.start(done)
        if stop:
            reporter.tell("saving")
            saver.finish()
