"""How a model can answer many prompts at once: tried on short ones, against one prompt at a time without a cache.

Some families count positions without a look at the mask, or let a state run over the padding: in a batch with longer
prompts, their answers would silently be others. Some have a cache that fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers

from sft.trainer import distributed
from sft.trainer.causes import is_not_the_models
from sft.trainer.distributed import World
from sft.trainer.evaluation import kv_cache
from sft.trainer.model import published
from sft.trainer.report import Reporter

LEAST, SHORTER = 11, 6  # tokens of the longer of two prompts, and by how many the other one is shorter
NEW_TOKENS = 3
SHARE = {torch.float32: 1e-3}  # of the spread of the logits, by which they may differ
SHARE_ROUNDED = 0.1  # bf16 and fp16


@dataclass(frozen=True)
class Way:
    """One way to answer a batch of prompts."""

    pads: bool  # prompts of different lengths in one batch, padded on the left
    caches: bool  # keys and values of earlier tokens are kept
    by_hand: bool = False  # transformers' generate is wrong for this family: the model is called for each token

    @property
    def words(self) -> str:
        """What it means for an evaluation, after the model's name."""
        padding = "" if self.pads else "cannot pad prompts: answers those of one length at a time"
        cache = "" if self.caches else "has no cache that works here: answers without one, slowly"
        hand = "is answered wrongly by transformers' generate: answers token by token" if self.by_hand else ""
        return "; ".join(filter(None, (padding, hand or cache)))


WAYS = (Way(True, True), Way(False, True), Way(True, False), Way(False, False))  # the fastest first
PLAIN = Way(False, False, by_hand=True)


def find(model: Any, padding: int, longest: int, reporter: Reporter, world: World) -> Way:
    """Return the fastest way in which this model gives right answers (all ranks).

    It is tried on prompts about as long as the `longest`: a window of the attention only shows in those.
    """
    most = positions_of(model)
    longest = max(LEAST, min(longest, most - NEW_TOKENS) if most else longest)
    expected = first_logits(model, PLAIN, padding, longest, world)
    limit = SHARE.get(model.dtype, SHARE_ROUNDED)
    for way in WAYS:
        is_right = expected is not None and agrees(expected, first_logits(model, way, padding, longest, world), limit)
        if distributed.total([not is_right], world) == [0.0]:
            break
    else:
        way = PLAIN
    if way.words:
        reporter.print(f"{type(model).__name__} {way.words}")
    return way


def agrees(expected: torch.Tensor, found: torch.Tensor | None, limit: float) -> bool:
    """Tell whether logits, [tokens, vocabulary], are those that are expected, up to a share of their spread."""
    if found is None or found.shape != expected.shape:
        return False
    spread = (expected - expected.mean(dim=1, keepdim=True)).norm(dim=1).clamp_min(1e-30)
    return bool(((expected - found).norm(dim=1) / spread <= limit).all())


def positions_of(model: Any) -> int | None:
    """Return the most tokens that a model reads, or None."""
    return published.positions(model.config)


def first_logits(model: Any, way: Way, padding: int, longest: int, world: World) -> torch.Tensor | None:
    """Return the logits of the answer to the shorter prompt, NEW_TOKENS of them; None if this way fails."""
    vocabulary = min(97, model.get_input_embeddings().weight.shape[0] - 3)
    prompts = [[3 + (7 * i + i * i) % vocabulary for i in range(longest - SHORTER)]]
    if not way.by_hand:  # a cache may be right for a single prompt and wrong for several
        length = longest if way.pads else longest - SHORTER
        prompts.append([3 + (5 * i + 2) % vocabulary for i in range(length)])
    if way.by_hand:
        return by_hand(model, prompts, NEW_TOKENS, world)[1]
    width = max(map(len, prompts))
    rows = [[padding] * (width - len(ids)) + ids for ids in prompts]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
    config = transformers.GenerationConfig(
        max_new_tokens=NEW_TOKENS, do_sample=False, use_cache=way.caches, pad_token_id=padding,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    own, model.generation_config = model.generation_config, config
    try:
        with torch.no_grad():
            output = model.generate(
                torch.tensor(rows, device=world.device), attention_mask=torch.tensor(mask, device=world.device),
                generation_config=config,
                past_key_values=kv_cache.preallocated(model, width + NEW_TOKENS) if way.caches else None,
            )  # fmt: skip
    except Exception as error:  # of any kind: the code of a model family
        if is_not_the_models(error):
            raise
        return None
    finally:
        model.generation_config = own
    return torch.stack([logits[0].float() for logits in output.logits])


def by_hand(
    model: Any,
    prompts: list[list[int]],
    new_tokens: int,
    world: World,
    ends: tuple[int, ...] = (),
    progress: transformers.StoppingCriteria | None = None,
) -> tuple[list[list[int]], torch.Tensor | None]:
    """Answer prompts of one length greedily, with the whole text in every pass. Return the new tokens.

    The second value are the logits of the first prompt's answer, [tokens, vocabulary]. None if the model does not run.
    `progress` may end it early, as in transformers' generate.
    """
    ids, logits = torch.tensor(prompts, device=world.device), []
    width, finished = ids.shape[1], torch.zeros(len(prompts), dtype=torch.bool, device=world.device)
    last = torch.tensor(ends, device=world.device)
    try:
        with torch.no_grad():
            for _ in range(new_tokens):
                found = model(input_ids=ids, use_cache=False).logits[:, -1].float()
                logits.append(found[0])
                ids = torch.cat((ids, found.argmax(dim=-1, keepdim=True)), dim=1)
                finished |= torch.isin(ids[:, -1], last)
                if progress:
                    finished |= progress(ids, found)
                if bool(finished.all()):
                    break
    except Exception as error:  # of any kind: the code of a model family
        if is_not_the_models(error):
            raise
        return [[] for _ in prompts], None
    return ids[:, width:].tolist(), torch.stack(logits)
