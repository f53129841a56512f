"""Evaluate a model on the held-out rows: validation loss, and exact match of generated answers.

It runs on a plain model per rank (the base model, or the exported one), not on the engine: generating under ZeRO-3
would gather every weight for every token.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from sft.run import typed_json
from sft.run.directory import Run
from sft.run.records import Moment, Results
from sft.settings.fields import Settings
from sft.trainer import batching, distributed
from sft.trainer.data.rows import Rows
from sft.trainer.distributed import World
from sft.trainer.evaluation.generate import generate
from sft.trainer.evaluation.score import score
from sft.trainer.loss import TargetLoss, evaluating, take_fast_paths
from sft.trainer.model.load import free_unused_memory, load_model


def evaluate_model(run: Run, settings: Settings, path: Path, rows: Rows, world: World, moment: Moment) -> Results:
    """Evaluate the model in `path` and write the results of this `moment` to `evaluation.json` (all ranks).

    Raises process.Stopped.
    """
    started = time.monotonic()
    free_unused_memory(world.device)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        path, padding_side="left", trust_remote_code=settings.trust_remote_code
    )
    model: Any = load_model(path, settings, world.device)
    target_loss = TargetLoss(model)
    packing = take_fast_paths(target_loss, settings.packing, world)
    loss = mean_loss(target_loss, rows, settings, packing, world)
    model.set_attn_implementation(target_loss.own_attention)
    free_unused_memory(world.device)
    generating = time.monotonic()
    answers = generate(run, settings, model, tokenizer, rows, world)
    ended = time.monotonic()
    del model, target_loss
    free_unused_memory(world.device)
    found = replace(
        score(answers),
        loss=loss,
        rows=len(rows),
        seconds=round(ended - started, 1),
        generating_seconds=round(ended - generating, 1),
    )
    if world.is_main:
        before = run.results()
        now = replace(before, before=found) if moment == "before" else replace(before, after=found)
        typed_json.write(run.evaluation, now)
    return found


def mean_loss(module: Any, rows: Rows, settings: Settings, packing: bool, world: World) -> float | None:
    """Return the mean loss over the target tokens of all rows, or None without rows (all ranks).

    `module` is a TargetLoss or an engine around one. Every rank runs the same number of batches, as ZeRO-3 demands.
    """
    if not len(rows):
        return None
    everything = np.arange(len(rows), dtype=np.int64)
    loss_sum = torch.zeros((), device=world.device)
    with evaluating(module):
        for per_rank in batching.micro_steps(everything, rows.lengths, settings, packing):
            batch = batching.collate(rows.take(per_rank[world.rank]), packing, world.device)
            loss_sum += module(*batch)
    return distributed.total([loss_sum], world)[0] / rows.target_tokens(everything)
