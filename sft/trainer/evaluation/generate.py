"""Answers to the held-out prompts, generated greedily and as many at once as fit."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import torch
import transformers

from sft.run.directory import Run
from sft.settings.fields import Settings
from sft.trainer import distributed, process
from sft.trainer.data.rows import Rows
from sft.trainer.distributed import World
from sft.trainer.evaluation import kv_cache
from sft.trainer.evaluation.score import Answer

CPU_ANSWERS_AT_ONCE = 64


GENERATION_SHARE = 0.8  # of the free memory, for answers


LOGITS_BYTES = 12  # a vocabulary entry's logit in its own type and in fp32, twice


SAY_EVERY_S = 0.5


def pad_token(tokenizer: Any) -> int:
    """Return the id to pad with; EOS where there is no pad token. Padding is masked and never a target."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id


def generate(run: Run, settings: Settings, model: Any, tokenizer: Any, rows: Rows, world: World) -> list[Answer]:
    """Return the answer to every row asked, on all ranks (all ranks).

    Rows go round the ranks by length, so that a batch has little padding and the ranks have like work.
    Raises process.Stopped where the run was asked to stop.
    """
    number = min(len(rows), settings.eval_limit or len(rows))
    texts = list(itertools.islice(rows.texts(), number))
    by_length = sorted(range(number), key=lambda index: -int(rows.lengths[index]))
    mine = by_length[world.rank :: world.world_size]
    prompts = {index: rows.prompt_ids(index) for index in mine}
    most = settings.eval_batch_size or as_many_as_fit(model, max(map(len, prompts.values()), default=1), settings)
    batches = max(1, math.ceil(len(mine) / most))
    at_once = max(1, math.ceil(len(mine) / batches))  # a last batch of a few answers takes as many steps as a full one
    ends = end_tokens(model, tokenizer)
    progress = Progress(run, world, len(mine))
    found = []
    for start in range(0, len(mine), at_once):
        chosen = mine[start : start + at_once]
        batch = [prompts[index] for index in chosen]
        since = time.monotonic()
        for index, answer in zip(
            chosen, answer_batch(model, tokenizer, batch, ends, settings, progress, world), strict=True
        ):
            found.append(Answer(index, texts[index]["prompt"], texts[index]["reference"], answer))
        if progress.stopped:
            break
        progress.done += len(chosen)
        if world.is_main:
            print(f"{len(chosen)} answers at once: {time.monotonic() - since:.1f} s", flush=True)
    everything = [item for part in distributed.gather([] if progress.stopped else found) for item in part]
    if len(everything) < number:
        raise process.Stopped
    return sorted(everything, key=lambda item: item.index)


def as_many_as_fit(model: Any, prompt_tokens: int, settings: Settings) -> int:
    """Return how many answers to generate at once: as the free memory of the GPU allows."""
    if model.device.type != "cuda":
        return CPU_ANSWERS_AT_ONCE
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    item = model.dtype.itemsize
    kept = 2 * config.num_hidden_layers * heads * size * item  # a token's keys and values
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    reading = 4 * (config.hidden_size + wide) * item  # a prompt's token on its way through a layer
    tokens = prompt_tokens + settings.max_new_tokens
    each = tokens * kept + prompt_tokens * reading + LOGITS_BYTES * config.vocab_size
    free, _ = torch.cuda.mem_get_info()
    return max(1, int(free * GENERATION_SHARE / each))


class Progress(transformers.StoppingCriteria):
    """Called with every token of a batch: says how far the evaluation is, and ends it where the run is to stop."""

    def __init__(self, run: Run, world: World, answers: int) -> None:
        self.run, self.world = run, world
        self.answers, self.done = answers, 0  # of this rank
        self.batch = (0, 1)  # prompt tokens and new tokens of the batch at work
        self.said_at = 0.0
        self.stopped = False

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return for each row whether it is to end here."""
        if time.monotonic() - self.said_at > SAY_EVERY_S:
            self.said_at = time.monotonic()
            self.stopped = self.run.stop_reason() is not None or process.stop_requested.is_set()
            if self.world.is_main:
                width, new = self.batch
                share = (input_ids.shape[1] - width) / new  # of the batch: its answers grow together
                answers = (self.done + len(input_ids) * share) * self.world.world_size
                self.run.tell(answers=int(answers), total_answers=self.answers * self.world.world_size)
        return torch.full((len(input_ids),), self.stopped, device=input_ids.device)


def answer_batch(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    ends: list[int],
    settings: Settings,
    progress: Progress,
    world: World,
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
    progress.batch = (width, new_tokens)
    config = transformers.GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, repetition_penalty=1.0, eos_token_id=ends, pad_token_id=pad_id,
        use_cache=True,
    )  # fmt: skip
    model.generation_config = config  # transformers takes what is left open here from the model's own: beams, penalties
    with torch.no_grad():
        output = model.generate(
            input_ids, attention_mask=mask, generation_config=config, stopping_criteria=[progress],
            past_key_values=kv_cache.reserved(model, width + new_tokens),
        )  # fmt: skip
    return tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer: those of the tokenizer and of the model's generation configuration."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [tokenizer.eos_token_id, *configured] if token is not None})
