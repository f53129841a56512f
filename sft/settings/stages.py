"""The stages of a run's settings, each a type of its own, so that no function is given an earlier one than it needs.

`Settings` (written, `auto` is open) -> `Resolved` (device, launcher, precision, learning rate) -> `Decided` (memory
budget too: what `settings.json` holds) -> `Effective` (what a rank trains with, after the cuts of its memory budget).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sft.errors import SettingsError, wrong
from sft.settings import rules
from sft.settings.fields import Settings
from sft.settings.kinds import LARGEST, InPrecision, Launched, OnDevice

UNPLANNED_TOKENS = 8192  # MAX_TOKENS_PER_MICRO_STEP=auto where no plan can be made: on a CPU, of an unknown model


class Resolved(Settings):
    """Settings for the machine that is here: only what a plan decides may still be open."""

    device: OnDevice
    launcher: Launched
    precision: InPrecision
    learning_rate: Annotated[float, Field(gt=0, lt=10)]


class Decided(Resolved):
    """Settings of a run that can start: nothing is open."""

    max_tokens_per_micro_step: Annotated[int, Field(ge=8, le=LARGEST)]
    gradient_checkpointing: bool


class Effective(Decided):
    """Settings that the ranks train with: the decided ones, with a lower budget if memory ran out."""


def resolve(
    settings: Settings, device: OnDevice, launcher: Launched, has_bf16: bool = True, with_file: bool = True
) -> Resolved:
    """Decide precision and learning rate, for GPUs with bf16 or without. Raises SettingsError for a contradiction.

    A run that was opened has its DeepSpeed configuration already: it is resolved without DS_CONFIG's file.
    """
    precision = settings.precision
    if precision == "auto":
        precision = "fp32" if device == "cpu" else "bf16" if has_bf16 else "fp16"
    rate = settings.peak_learning_rate
    found = Resolved.of(settings, device=device, launcher=launcher, precision=precision, learning_rate=rate)
    problems = rules.contradictions(found, with_file)
    if precision == "fp16" and device == "cpu":
        remedy = "use bf16, fp32 or auto"
        problems.append(wrong("PRECISION", precision, "DeepSpeed has no fp16 on the CPU", remedy))
    if precision == "bf16" and device == "cuda" and not has_bf16:
        # torch emulates it, many times slower, and Triton's kernels do not compile.
        what = "these GPUs have no bf16: cards since Ampere have (RTX 30, A100)"
        problems.append(wrong("PRECISION", precision, what, "use fp16, fp32, or auto, which is fp16 here"))
    if problems:
        raise SettingsError(problems)
    return found


def without_plan(settings: Resolved) -> Decided:
    """Decide the memory budget where no plan can be made: on a CPU, or for a model of unknown shape."""
    budget = settings.max_tokens_per_micro_step or max(UNPLANNED_TOKENS, settings.max_length)
    recompute = bool(settings.gradient_checkpointing)
    return Decided.of(settings, max_tokens_per_micro_step=budget, gradient_checkpointing=recompute)
