"""The rows and tokens of a run: from the manifest of prepared data, or typical figures if nothing is prepared yet.

The folder of prepared data is named after a hash that only the trainer can compute (it includes the tokenizer). Each
manifest says which settings it was made for, so the data is found here without the hash.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from sft.run import files, typed_json
from sft.run.records import PreparedData
from sft.settings.fields import Settings
from sft.settings.mixture import DataPart, parts_of
from sft.steps import Steps

SPREAD = 0.4  # standard deviation of a row's tokens, as a share of their mean: GSM8K's is 0.38
DEVIATIONS = 3  # standard deviations above the mean at which the largest step of a run is expected


@dataclass(frozen=True)
class Rows:
    """Figures of the training rows. `source` says where they come from."""

    source: str
    rows: int
    tokens_per_row: float
    target_share: float  # of the tokens: only these go through the head
    longest: int


# As counted in the project's own runs: GSM8K with Llama 3's tokenizer, the demo's with the tiny model's.
GSM8K = Rows("GSM8K's usual figures", 7473, 1_351_226 / 7473, 0.59, 561)
TYPICAL = {"openai/gsm8k": GSM8K, "demo": Rows("the demo's figures", 4000, 34.6, 0.36, 36)}


def rows_of(settings: Settings, tokens_per_row: int = 0, rows: int = 0) -> Rows:
    """Return the figures of the training rows: given, counted, or typical ones. No row is longer than MAX_LENGTH."""
    found = counted(settings) or total([estimated(part) for part in parts_of(settings)])
    if tokens_per_row:
        found = replace(found, source="as given", tokens_per_row=tokens_per_row, longest=settings.max_length)
    if rows:
        found = replace(found, source="as given", rows=rows)
    limit = settings.max_length
    return replace(found, tokens_per_row=min(limit, found.tokens_per_row), longest=min(limit, found.longest))


def estimated(part: DataPart) -> Rows:
    """Return the figures of a data set until it is prepared as this run needs it, for the share of it."""
    known = counted(part.settings)
    if known is None and part.name in TYPICAL:
        known = TYPICAL[part.name]
        known = replace(known, source=f"{known.source}, until its rows are prepared")
    if known is None:
        known = replace(GSM8K, source=f"{GSM8K.source}, as {part.name} is not prepared yet (`make setup`)")
        known = replace(known, rows=part.share.rows or known.rows)
    return replace(known, rows=part.share.taken(known.rows) * part.share.repeats)


def total(parts: list[Rows]) -> Rows:
    """Return the figures of several data sets together."""
    rows = sum(part.rows for part in parts)
    tokens = sum(part.rows * part.tokens_per_row for part in parts)
    targets = sum(part.rows * part.tokens_per_row * part.target_share for part in parts)
    source = "; ".join(dict.fromkeys(part.source for part in parts))
    return Rows(source, rows, tokens / rows, targets / tokens, max(part.longest for part in parts))


def counted(settings: Settings) -> Rows | None:
    """Return the figures of the newest prepared data that was made for these settings, or None."""
    manifests = settings.data_path.glob("prepared/*/manifest.json")
    wanted = settings.of_data()
    for path in sorted(manifests, key=changed_at, reverse=True):
        try:
            prepared = typed_json.read(path, PreparedData)
        except (OSError, files.Unreadable):
            continue  # removed meanwhile, or damaged
        train = prepared.train
        if prepared.settings == wanted and train.rows and train.tokens:
            share = train.target_tokens / train.tokens
            return Rows(f"counted in {path.parent}", train.rows, train.tokens / train.rows, share, train.longest)
    return None


def changed_at(path: Path) -> float:
    """Return when a file changed, in seconds since 1970; 0 if it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@dataclass(frozen=True)
class Work:
    """The size of an optimizer step and of the whole run."""

    steps: int
    tokens: int  # of all steps
    tokens_per_step: float  # of one rank, without padding
    micro_steps: int  # of a step
    micro_tokens: float  # of one rank's usual micro-step, with padding
    largest: int  # tokens of the largest micro-step that is expected in the run


def work(settings: Settings, rows: Rows, budget: int) -> Work:
    """Return the work of a run whose micro-steps have at most `budget` tokens on each rank."""
    steps = Steps.of(settings, rows.rows)
    sequences = min(steps.global_batch_size, rows.rows)
    ranks = settings.world_size
    tokens = round(min(steps.total * sequences, settings.max_epochs * rows.rows) * rows.tokens_per_row)
    per_rank = sequences * rows.tokens_per_row / ranks
    if settings.packing:
        micro_steps = max(1, math.ceil(per_rank / budget))
        most = largest(rows, sequences, ranks, budget)
        return Work(steps.total, tokens, per_rank, micro_steps, per_rank / micro_steps, most)
    micro_steps = math.ceil(sequences / (ranks * settings.batch_size))
    at_once = math.ceil(sequences / (ranks * micro_steps))
    usual = at_once * padded(rows, sequences, ranks * micro_steps)
    return Work(steps.total, tokens, per_rank, micro_steps, usual, at_once * rows.longest)


def padded(rows: Rows, sequences: int, shares: int) -> float:
    """Return the expected tokens of a row with its padding, if a step's rows are cut into shares by their lengths.

    One share is as long as the longest of all rows (the bound of Hartley and David). Otherwise the padding of all
    shares adds up to that of one of them.
    """
    above = (sequences - 1) / math.sqrt(2 * sequences - 1)
    longest = min(rows.longest, rows.tokens_per_row * (1 + SPREAD * above))
    return rows.tokens_per_row + (longest - rows.tokens_per_row) / shares


def largest(rows: Rows, sequences: int, ranks: int, budget: int) -> int:
    """Return the tokens of the largest micro-step that is expected on a rank, from the step with the most tokens.

    If the number of micro-steps varies between steps, some step just fits a multiple of the budget, and its micro-steps
    are nearly full.
    """
    mean = sequences * rows.tokens_per_row / ranks
    above = DEVIATIONS * SPREAD * rows.tokens_per_row * math.sqrt(sequences) / ranks
    most, least = mean + above, max(0.0, mean - above)
    number = math.ceil(most / budget)
    share = budget if math.ceil(least / budget) < number and number > 1 else most / number
    return round(min(budget, max(share, rows.longest)))


def needed(settings: Settings, rows: Rows) -> int:
    """Return the most tokens that a micro-step can have: all rows of a rank's step, each as long as the longest."""
    if not settings.packing:
        return settings.batch_size * rows.longest
    return math.ceil(settings.sequences_per_step / settings.world_size) * rows.longest
