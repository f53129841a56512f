"""Evaluation of a model on the held-out rows: validation loss, and exact match of generated answers.

It runs on a plain model per rank (the base model, or the exported one), not on the engine: generating under ZeRO-3
would gather every weight for every token.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from sft.run import Run, write_whole
from sft.settings import Settings
from sft.trainer import batching, distributed, process
from sft.trainer import model as models
from sft.trainer.data import Rows
from sft.trainer.distributed import World

SAMPLES = 3
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def results(run: Run) -> dict[str, Any]:
    """Return the content of `evaluation.json`."""
    return json.loads(run.evaluation.read_text()) if run.evaluation.is_file() else {}


def evaluate(run: Run, settings: Settings, path: Path, rows: Rows, world: World, name: str) -> dict[str, Any]:
    """Evaluate the model in `path` and write it as `name` (before, after) to `evaluation.json` (all ranks).

    Raises process.Stopped.
    """
    started = time.monotonic()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, padding_side="left")
    model: Any = models.load(path, settings)
    model.to(world.device)
    pad_id = pad_token(tokenizer)
    loss = mean_loss(models.TargetLoss(model), rows, settings, pad_id, world)
    answers = generate(run, settings, model, tokenizer, rows, world)
    del model
    if world.device.type == "cuda":
        torch.cuda.empty_cache()
    found = {"loss": loss, "rows": len(rows), **score(answers), "seconds": round(time.monotonic() - started, 1)}
    if world.is_main:
        write_whole(run.evaluation, json.dumps(results(run) | {name: found}, indent=2, ensure_ascii=False) + "\n")
    return found


def pad_token(tokenizer: Any) -> int:
    """Return the id to pad with; EOS where there is no pad token. Padding is masked and never a target."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id


def mean_loss(module: Any, rows: Rows, settings: Settings, pad_id: int, world: World) -> float | None:
    """Return the mean loss over the target tokens of all rows, or None without rows (all ranks).

    `module` is a TargetLoss or an engine around one. Every rank runs the same number of batches, as ZeRO-3 demands.
    """
    if not len(rows):
        return None
    loss_sum = 0.0
    everything = np.arange(len(rows), dtype=np.int64)
    with models.evaluating(module):
        for per_rank in batching.micro_steps(everything, rows.lengths, world.world_size, settings.eval_batch_size):
            loss_sum += module(*batching.collate(rows, per_rank[world.rank], pad_id, world.device)).item()
    sums = distributed.total([loss_sum, 0.0], world)
    return sums[0] / rows.target_tokens(everything)


def generate(
    run: Run, settings: Settings, model: Any, tokenizer: Any, rows: Rows, world: World
) -> list[dict[str, Any]]:
    """Return {index, prompt, reference, answer} of every row asked, on all ranks (all ranks).

    Raises process.Stopped where the run was asked to stop.

    Rows go round the ranks by length, so that a batch has little padding and the ranks have like work.
    """
    number = min(len(rows), settings.eval_limit or len(rows))
    texts = list(itertools.islice(rows.texts(), number))
    by_length = sorted(range(number), key=lambda index: -int(rows.lengths[index]))
    mine = by_length[world.rank :: world.world_size]
    ends = end_tokens(model, tokenizer)
    found = []
    for start in range(0, len(mine), settings.eval_batch_size):
        if run.stop_reason() is not None or process.stop_requested.is_set():
            break
        chosen = mine[start : start + settings.eval_batch_size]
        prompts = [rows.prompt_ids(index) for index in chosen]
        for index, answer in zip(chosen, answer_batch(model, tokenizer, prompts, ends, settings, world), strict=True):
            found.append({"index": index, **texts[index], "answer": answer})
        if world.is_main:
            done = min(number, (start + len(chosen)) * world.world_size)
            run.update_state(answers=done, total_answers=number)
    everything = [item for part in distributed.gather(found) for item in part]
    if len(everything) < number:
        raise process.Stopped
    return sorted(everything, key=lambda item: item["index"])


def answer_batch(
    model: Any, tokenizer: Any, prompts: list[list[int]], ends: list[int], settings: Settings, world: World
) -> list[str]:
    """Return the answers to a batch of prompts, decoded greedily."""
    pad_id = pad_token(tokenizer)
    width = max(map(len, prompts))
    input_ids = torch.tensor([[pad_id] * (width - len(ids)) + ids for ids in prompts], device=world.device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=world.device)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    new_tokens = min(settings.max_new_tokens, limit - width) if limit else settings.max_new_tokens
    if new_tokens < 1:
        return [""] * len(prompts)
    config = transformers.GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, eos_token_id=ends, pad_token_id=pad_id
    )
    with torch.no_grad():
        output = model.generate(input_ids, attention_mask=mask, generation_config=config)
    return tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer: those of the tokenizer and of the model's generation configuration."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [tokenizer.eos_token_id, *configured] if token is not None})


# Scores


def score(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the shares of right answers, strict and flexible, with the first rows as samples."""
    for item in answers:
        item["correct"] = is_exact_match(item["answer"], item["reference"])
        item["correct_flexible"] = is_flexible_match(item["answer"], item["reference"])
    number = len(answers)
    samples = [{key: value for key, value in item.items() if key != "index"} for item in answers[:SAMPLES]]
    return {
        "answers": number,
        "exact_match": sum(item["correct"] for item in answers) / number if number else None,
        "exact_match_flexible": sum(item["correct_flexible"] for item in answers) / number if number else None,
        "samples": samples,
    }


def is_exact_match(answer: str, reference: str) -> bool:
    """Tell whether the answer ends as the reference does.

    GSM8K's form is strict: the number after `####`, which must be there (the data set's own evaluation). A reference
    without `####` is compared as a whole, but for case and white space.
    """
    if "####" in reference:
        return "####" in answer and same_number(answer.split("####")[1], reference.split("####")[-1])
    return " ".join(answer.split()).casefold() == " ".join(reference.split()).casefold()


def is_flexible_match(answer: str, reference: str) -> bool:
    """Tell whether the last number of the answer is that of the reference; without numbers, as strict."""
    wanted, found = NUMBER.findall(reference.split("####")[-1]), NUMBER.findall(answer)
    if not wanted:
        return is_exact_match(answer, reference)
    return bool(found) and same_number(found[-1], wanted[-1])


def same_number(left: str, right: str) -> bool:
    """Tell whether two texts begin with the same number, whatever their thousands separators and signs of money."""
    numbers = [NUMBER.match(text.strip().lstrip("$€£ ")) for text in (left, right)]
    if not all(numbers):
        return False
    values = [float(number[0].replace(",", "")) for number in numbers if number]
    return values[0] == values[1]
