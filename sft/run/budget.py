"""`budget.json`: the tokens or rows per micro-step that fit, written when a rank runs out of memory.

`settings.json` stays what the user or the plan decided; the ranks train with what is held here where that is less. It
holds for the rest of the run and whenever it is resumed, until the user asks for another budget. The global batch stays
the same, and so does the result up to rounding.
"""

from __future__ import annotations

from dataclasses import replace

from sft.run import typed_json
from sft.run.directory import Run
from sft.run.records import Budget, BudgetSetting, Cut
from sft.settings.fields import Settings
from sft.settings.stages import Decided, Effective

# What is cut: of packed micro-steps, of padded ones.
TOKENS: BudgetSetting = "max_tokens_per_micro_step"
ROWS: BudgetSetting = "batch_size"
MULTIPLE = 256  # tokens that a cut budget is rounded down to


def in_words(cut: Cut) -> str:
    """Return in words what did not fit."""
    return what(cut.setting, cut.failed_size, cut.step, cut.phase, cut.rank)


def what(setting: str, size: int, step: str, phase: str, rank: int) -> str:
    """Return in words where a rank ran out of memory, and at what."""
    unit = "tokens" if setting == TOKENS else f"row{'s' * (size > 1)}"
    return f"out of memory in {step} ({phase}, rank {rank}) at {size:,} {unit} a micro-step"


def smaller(setting: str, size: int, longest: int) -> int | None:
    """Return the budget after one that did not fit: three quarters of it; None where it cannot be smaller.

    `longest` are the tokens of the run's longest row, which has to fit.
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
    """Return the settings that a run's ranks train with: its own ones, with the budget that memory allows."""
    limits: dict[str, int] = {cut.setting: cut.limit for cut in cuts(run)}
    changes: dict[str, int] = {}
    if TOKENS in limits:
        changes[TOKENS] = min(limits[TOKENS], settings.max_tokens_per_micro_step)
    if ROWS in limits:
        whole = {"global_batch_size": settings.sequences_per_step, "gradient_accumulation_steps": 1}
        changes |= whole | {ROWS: min(limits[ROWS], settings.batch_size)}
    return Effective.of(settings, **changes)


def revise(run: Run, written: Settings) -> list[str]:
    """Forget the cuts of a run that is opened with another budget than did not fit; `auto` is no other one.

    Return a line for the last one that holds.
    """
    found = cuts(run)
    kept = [cut for cut in found if getattr(written, cut.setting) in (None, cut.configured)]
    if kept != found:
        write(run, kept)
    return [
        f"{in_words(cut)} before: continues with {cut.limit:,}; {cut.setting.upper()} sets another" for cut in kept[-1:]
    ]
