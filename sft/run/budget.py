"""`budget.json`: the tokens or rows per micro-step that fit, written when a rank runs out of memory.

`settings.json` keeps what the user or the plan decided; the ranks train with the limit in this file if it is lower.
The limit applies to the rest of the run, also when it is resumed, until the user sets another budget. The global batch
stays the same, and so does the result up to rounding.
"""

from __future__ import annotations

from dataclasses import replace

from sft.run import typed_json
from sft.run.directory import Run
from sft.run.records import Budget, BudgetSetting, Cut
from sft.settings.fields import Settings
from sft.settings.stages import Decided, Effective

# The setting that is lowered: for packed micro-steps, and for padded ones.
TOKENS: BudgetSetting = "max_tokens_per_micro_step"
ROWS: BudgetSetting = "batch_size"
MULTIPLE = 256  # tokens that a cut budget is rounded down to


def in_words(cut: Cut) -> str:
    """Return where a rank ran out of memory, and at what size, as users read it."""
    return what(cut.setting, cut.failed_size, cut.step, cut.phase, cut.rank)


def what(setting: str, size: int, step: str, phase: str, rank: int) -> str:
    """Return where a rank ran out of memory, and at what size, as users read it."""
    unit = "tokens" if setting == TOKENS else f"row{'s' * (size > 1)}"
    return f"out of memory in {step} ({phase}, rank {rank}) at {size:,} {unit} a micro-step"


def smaller(setting: str, size: int, longest: int) -> int | None:
    """Return three quarters of a budget that did not fit, or None if it cannot be smaller.

    `longest` is the number of tokens in the run's longest row, which has to fit.
    """
    share = size * 3 // 4
    limit = max(longest, share // MULTIPLE * MULTIPLE) if setting == TOKENS else max(1, share)
    return limit if limit < size else None


def cuts(run: Run) -> list[Cut]:
    """Return the cuts of a run, oldest first."""
    found = run.record(run.budget, Budget)
    return found.cuts if found else []


def write(run: Run, found: list[Cut]) -> None:
    """Write the cuts of a run."""
    known = run.record(run.budget, Budget) or Budget()
    typed_json.write(run.budget, replace(known, cuts=found))


def effective(run: Run, settings: Decided) -> Effective:
    """Return the settings that a run's ranks train with: its own, with the budget that memory allows."""
    limits: dict[str, int] = {cut.setting: cut.limit for cut in cuts(run)}
    changes: dict[str, int] = {}
    if TOKENS in limits:
        changes[TOKENS] = min(limits[TOKENS], settings.max_tokens_per_micro_step)
    if ROWS in limits:
        whole = {"global_batch_size": settings.sequences_per_step, "gradient_accumulation_steps": 1}
        changes |= whole | {ROWS: min(limits[ROWS], settings.batch_size)}
    return Effective.of(settings, **changes)


def revise(run: Run, written: Settings) -> list[str]:
    """Drop the cuts of a budget that the user has since changed; `auto` does not count as a change.

    Return a line for the newest cut that still applies.
    """
    found = cuts(run)
    kept = [cut for cut in found if getattr(written, cut.setting) in (None, cut.configured)]
    if kept != found:
        write(run, kept)
    return [
        f"{in_words(cut)} before: continuing with {cut.limit:,}; set {cut.setting.upper()} to change it"
        for cut in kept[-1:]
    ]
