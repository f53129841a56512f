"""Answers to the validation rows, generated greedily and as many at once as fit."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
import transformers

from sft.run.directory import Run
from sft.run.records import TemplateFacts
from sft.settings.fields import Settings
from sft.trainer import distributed, process
from sft.trainer.data.rows import Rows
from sft.trainer.distributed import World
from sft.trainer.evaluation import kv_cache, parts, ways
from sft.trainer.evaluation.score import Answer
from sft.trainer.evaluation.ways import Way
from sft.trainer.model import answer_text, generation
from sft.trainer.report import Reporter

CPU_ANSWERS_AT_ONCE = 64
GENERATION_SHARE = 0.8  # of the free GPU memory, for answers
LOGITS_BYTES = 12  # of a logit: in the model's type, and twice in fp32
TELL_EVERY_S = 0.5
PROMPT_END = 32  # tokens of a prompt, in which it may open reasoning


def generate(
    run: Run,
    settings: Settings,
    model: Any,
    tokenizer: Any,
    template: TemplateFacts | None,
    rows: Rows,
    reporter: Reporter,
    world: World,
) -> list[Answer]:
    """Answer the first EVAL_LIMIT rows that have an answer, or all (all ranks).

    Every rank returns all answers, in the order of the rows. They are dealt to the ranks by length: so a batch has
    little padding, and all ranks have about the same work. Raises process.Stopped if the run was asked to stop.
    """
    asked = parts.asked(rows, settings.eval_limit)
    texts = dict(itertools.islice(enumerate(rows.texts()), max(asked, default=-1) + 1))
    by_length = sorted(asked, key=lambda index: -int(rows.lengths[index]))
    mine = by_length[world.rank :: world.world_size]
    prompts = {index: texts[index].prompt_ids or rows.prompt_ids(index) for index in mine}
    most = settings.eval_batch_size or as_many_as_fit(model, max(map(len, prompts.values()), default=1), settings)
    ends = generation.stops(model, tokenizer, template)
    padding = generation.pad_token(model, tokenizer, ends)
    reasoning_end = template.reasoning_end if template else []
    reasoning_start = template.reasoning_start if template else []
    longest = max((int(rows.answer_starts[index]) for index in asked), default=1)  # the same on every rank
    way = ways.find(model, padding, longest, reporter, world)
    room = room_for_answers(model, rows, asked, settings, reporter)
    padded = room if way.pads else 0
    if padded < math.inf:
        mine = sorted(mine, key=lambda index: -len(prompts[index]))
    progress = Progress(run, len(mine), len(asked), reporter)
    found: list[Answer] = []
    for chosen in batches_of(mine, prompts, most, padded):
        since = time.monotonic()
        asked_now = [prompts[index] for index in chosen]
        batch = answer_batch(model, asked_now, ends, padding, settings, progress, world, way)
        if progress.stopped:
            break
        for index, ids in zip(chosen, batch, strict=True):
            ended = bool(ids) and ids[-1] in ends
            generated, answer = answer_text.texts(ids[:-1] if ended else ids, tokenizer, reasoning_end)
            prompt_end = tokenizer.decode(prompts[index][-PROMPT_END:])
            if answer_text.is_cut_in_reasoning(generated, prompt_end, ended, reasoning_start, reasoning_end):
                answer = ""
            row = texts[index]
            number = int(rows.row_of[index])
            found.append(Answer(number, row.prompt, row.reference, answer, generated, len(ids), ended))
        progress.done += len(chosen)
        reporter.print(f"{len(chosen)} answers at once: {time.monotonic() - since:.1f} s")
    # Ranks do not stop in the same step. Whoever has stopped early leaves fewer answers than rows, which all ranks see.
    everything = [answer for part in distributed.gather([] if progress.stopped else found) for answer in part]
    if len(everything) < len(asked):
        raise process.Stopped
    reporter.tell(answers=len(everything), total_answers=len(asked))
    return sorted(everything, key=lambda answer: answer.index)


def room_for_answers(model: Any, rows: Rows, asked: list[int], settings: Settings, reporter: Reporter) -> float:
    """Return how long a prompt may be that leaves room for MAX_NEW_TOKENS, if any prompt is longer; say how many are.

    (All ranks.)
    """
    limit = ways.positions_of(model)
    if limit is None:
        return math.inf
    room = limit - settings.max_new_tokens
    longer = sum(int(rows.answer_starts[index]) > room for index in asked)
    if not longer:
        return math.inf
    what = f"{longer:,} of {len(asked):,} prompts leave less room than MAX_NEW_TOKENS={settings.max_new_tokens}"
    reporter.print(f"{what}: the model reads {limit:,} tokens, and their answers end there")
    return room


def batches_of(mine: list[int], prompts: dict[int, list[int]], most: int, padded: float) -> Iterator[list[int]]:
    """Yield batches of at most `most` rows, which come longest prompt first.

    Prompts of up to `padded` tokens are padded to the longest of their batch. Longer ones are with those of their own
    length: padding would take away room for their answers, or cannot be told from the prompt by this model.
    """
    for _, rows in itertools.groupby(mine, lambda index: max(len(prompts[index]), padded)):
        group = list(rows)
        batches = max(1, math.ceil(len(group) / most))
        at_once = max(1, math.ceil(len(group) / batches))  # batches of equal size: each takes as many decoding steps
        for start in range(0, len(group), at_once):
            yield group[start : start + at_once]


def as_many_as_fit(model: Any, prompt_tokens: int, settings: Settings) -> int:
    """Return how many answers to generate at once: as many as fit into the GPU's free memory.

    `prompt_tokens` are those of the longest prompt.
    """
    if model.device.type != "cuda":
        return CPU_ANSWERS_AT_ONCE
    config = model.config.get_text_config()

    def size(name: str, default: int) -> int:
        try:
            found = getattr(config, name, None) or default
        except Exception:  # sizes that differ by layer, which some configurations refuse to sum up
            return default
        return int(max(found)) if isinstance(found, list | tuple) else int(found)  # one for each layer

    hidden = size("hidden_size", model.get_input_embeddings().embedding_dim)
    heads = size("num_attention_heads", 1)
    keys = size("num_key_value_heads", heads) * size("head_dim", hidden // heads)
    item = model.dtype.itemsize
    cached = 2 * size("num_hidden_layers", 1) * keys * item  # bytes of a token's keys and values
    activations = 4 * (hidden + size("intermediate_size", 4 * hidden)) * item  # of a prompt's token in a layer
    tokens = prompt_tokens + settings.max_new_tokens
    bytes_per_answer = tokens * cached + prompt_tokens * activations + LOGITS_BYTES * config.vocab_size
    free, _ = torch.cuda.mem_get_info()
    return max(1, int(free * GENERATION_SHARE / bytes_per_answer))


class Progress(transformers.StoppingCriteria):
    """Called for every token of a batch: reports how far the evaluation is, and ends it if the run is to stop."""

    def __init__(self, run: Run, mine: int, everyone: int, reporter: Reporter) -> None:
        """`mine`: the answers of this rank. `everyone`: those of all ranks, which are as far as this one."""
        self.run, self.reporter = run, reporter
        self.mine, self.everyone, self.done = mine, everyone, 0
        self.batch = (0, 1)  # prompt tokens and new tokens of the batch at work
        self.told_at = 0.0
        self.stopped = False

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return, for each row of the batch, whether its generation ends here."""
        if time.monotonic() - self.told_at > TELL_EVERY_S:
            self.told_at = time.monotonic()
            self.stopped = self.run.stop_reason() is not None or process.stop_requested.is_set()
            width, new = self.batch
            share = (input_ids.shape[1] - width) / new  # the answers of a batch grow together
            answers = (self.done + len(input_ids) * share) / self.mine * self.everyone
            self.reporter.tell(answers=int(answers), total_answers=self.everyone)
        return torch.full((len(input_ids),), self.stopped, device=input_ids.device)


def answer_batch(
    model: Any,
    prompts: list[list[int]],
    ends: list[int],
    padding: int,
    settings: Settings,
    progress: Progress,
    world: World,
    way: Way = ways.WAYS[0],
) -> list[list[int]]:
    """Answer a batch of prompts, token ids, by greedy decoding, in a way that this model can go.

    Return the new tokens of each.

    An answer ends with a token of `ends`, or without one after MAX_NEW_TOKENS tokens.
    """
    width = max(map(len, prompts))
    input_ids = torch.tensor([[padding] * (width - len(ids)) + ids for ids in prompts], device=world.device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=world.device)
    limit = ways.positions_of(model)
    new_tokens = min(settings.max_new_tokens, limit - width) if limit else settings.max_new_tokens
    if new_tokens < 1:
        return [[] for _ in prompts]
    progress.batch = (width, new_tokens)
    if way.by_hand:
        found, _ = ways.by_hand(model, prompts, new_tokens, world, tuple(ends), progress)
        return [up_to_end(ids, ends) for ids in found]
    config = transformers.GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, repetition_penalty=1.0, eos_token_id=ends, pad_token_id=padding,
        use_cache=way.caches,
    )  # fmt: skip
    model.generation_config = config  # transformers fills in what is None here, such as beams, from the model's own
    with torch.no_grad():
        output = model.generate(
            input_ids, attention_mask=mask, generation_config=config, stopping_criteria=[progress],
            past_key_values=kv_cache.preallocated(model, width + new_tokens) if way.caches else None,
        )  # fmt: skip
    return [up_to_end(ids, ends) for ids in output[:, width:].tolist()]


def up_to_end(ids: list[int], ends: list[int]) -> list[int]:
    """Return generated tokens up to and with the first that ends an answer: padding follows it."""
    at = next((at for at, token in enumerate(ids) if token in ends), len(ids))
    return ids[: at + 1]
