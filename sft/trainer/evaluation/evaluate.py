"""Evaluate a model on the validation rows: validation loss, and exact match of generated answers.

It runs on a plain model per rank (the base model, or the exported one), not on the engine: generating under ZeRO-3
would gather every weight for every token.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from sft.run.directory import Run
from sft.run.records import Moment, Prepared, Results, Tried
from sft.settings.stages import Effective
from sft.trainer import batching, distributed
from sft.trainer.data.rows import Rows
from sft.trainer.distributed import World
from sft.trainer.evaluation import parts
from sft.trainer.evaluation.generate import generate
from sft.trainer.evaluation.score import results
from sft.trainer.fast_paths import take_fast_paths
from sft.trainer.loss import TargetLoss, evaluating
from sft.trainer.model import scans
from sft.trainer.model.load import free_unused_memory, load_model
from sft.trainer.report import Reporter
from sft.trainer.ways_to_pack import end_packing

LARGEST_EXPONENT = 700.0  # of e, for a 64-bit number


def evaluate_model(
    run: Run,
    settings: Effective,
    path: Path,
    moment: Moment,
    prepared: Prepared,
    rows: Rows,
    reporter: Reporter,
    world: World,
) -> Results:
    """Evaluate the model in `path` (all ranks). Raises process.Stopped if the run was asked to stop.

    The answers are written to `answers.jsonl`, as those of `moment`.

    `prepared` has the template that the rows were rendered with, which says where an answer ends.
    """
    started = time.monotonic()
    free_unused_memory(world.device)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        path, padding_side="left", trust_remote_code=settings.trust_remote_code
    )
    model: Any = load_model(path, settings, world.device)
    target_loss = TargetLoss(model)
    scans.take(model, prepared.tried or Tried())
    longest, most_tokens = int(rows.lengths.max(initial=0)), settings.max_tokens_per_micro_step
    packing = take_fast_paths(target_loss, settings.packing, world, longest, most_tokens)
    losses = mean_losses(target_loss, rows, settings, packing, world)
    loss = parts.mean(rows, losses)
    end_packing(target_loss)
    free_unused_memory(world.device)  # its free memory decides how many answers fit at once
    generating = time.monotonic()
    has_answers = len(rows.asked()) > 0 or not len(rows)
    if not has_answers:
        reporter.print("the held-out rows are texts: their loss and perplexity are measured, and there are no answers")
    template = prepared.template
    answers = generate(run, settings, model, tokenizer, template, rows, reporter, world) if has_answers else []
    ended = time.monotonic()
    del model, target_loss
    free_unused_memory(world.device)
    lines, form, said = parts.verdicts(rows, answers, settings.eval_answer, moment)
    for line in said if has_answers else []:
        reporter.print(line)
    if cut := sum(not item.ended for item in answers):
        reporter.print(f"{cut:,} of {len(answers):,} answers were cut (MAX_NEW_TOKENS={settings.max_new_tokens})")
    if has_answers:
        reporter.write_answers(moment, lines)
    return replace(
        results(lines, form),
        loss=loss,
        perplexity=None if has_answers else perplexity(loss),
        rows=len(rows),
        parts=parts.of_parts(prepared.parts, rows, losses, lines),
        seconds=round(ended - started, 1),
        generating_seconds=round(ended - generating, 1),
    )


def perplexity(loss: float | None) -> float | None:
    """Return e to the power of a loss; None without one, or if it is beyond the numbers that a computer has."""
    return math.exp(loss) if loss is not None and loss < LARGEST_EXPONENT else None


def mean_losses(
    module: torch.nn.Module, rows: Rows, settings: Effective, packing: bool, world: World
) -> list[float | None]:
    """Return the mean loss over the rows of each data set, as `mean_loss` does (all ranks)."""
    return [mean_loss(module, part, settings, packing, world) for part in parts.data_sets(rows)]


def mean_loss(module: torch.nn.Module, rows: Rows, settings: Effective, packing: bool, world: World) -> float | None:
    """Return the mean loss over the target tokens of all rows, or None without rows (all ranks).

    `module` is a TargetLoss or an engine around one. Every rank runs the same number of micro-steps, even if it has no
    rows in some: under ZeRO-3 each forward pass is collective.
    """
    if not len(rows):
        return None
    everything = np.arange(len(rows), dtype=np.int64)
    loss_sum = torch.zeros((), device=world.device)
    with evaluating(module):
        for rows_per_rank in batching.micro_steps(everything, rows.lengths, settings, packing):
            batch = batching.collate(rows.take(rows_per_rank[world.rank]), packing, world.device)
            loss_sum += module(*batch)
    return distributed.total([loss_sum], world)[0] / rows.target_tokens(everything)
