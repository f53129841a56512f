"""`plan.json` and `budget.json`: the estimate before the start, and what fits in the end."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar, Literal

from sft.run.light import dataclass
from sft.run.typed_json import Part, Record


@dataclass(frozen=True, kw_only=True)
class PlanSummary(Record):
    """`plan.json`: memory and time as estimated before the start."""

    model: str
    weights: int
    shape: str  # where it is from
    rows: dict[str, str | int | float]
    gpu: str
    gpus: int
    gpu_gib: float
    usable_gib: float
    settings: dict[str, object]  # that the plan depends on
    fits: bool
    memory_gib: dict[str, dict[str, float]]  # by moment of a step, by part
    peak_moment: str
    peak_gib: float
    allocated_gib: float  # to compare with mem/peak_gib
    host_gib: float
    host_memory_gib: dict[str, float]
    saves_beside_training: bool
    work: dict[str, int | float]
    timing: dict[str, float]
    tokens_per_second: int
    notes: list[str]


# What the fields of a cut were called until version 1 of budget.json.
CUT_UNTIL_1 = {
    "asked": "configured",
    "tried": "failed_size",
    "now": "limit",
    "place": "step",
    "where": "phase",
}
BudgetSetting = Literal["max_tokens_per_micro_step", "batch_size"]


@dataclass(frozen=True, kw_only=True)
class Cut(Part):
    """One micro-step that did not fit, and the budget from then on."""

    setting: BudgetSetting
    configured: int  # its value in settings.json
    failed_size: int  # tokens or rows of the largest micro-step in the step that ran out of memory
    limit: int  # the budget since then
    step: str  # as in "step 17" or "the dry run before step 1"
    phase: str  # forward, backward or optimizer
    rank: int


@dataclass(frozen=True, kw_only=True)
class Budget(Record):
    """`budget.json`: the budgets of a micro-step that memory allows, the oldest first."""

    version: ClassVar[int] = 2

    cuts: list[Cut] = field(default_factory=list)

    @classmethod
    def upgraded(cls, content: object, version: int) -> object:
        """Translate version 0, a bare list of cuts, and the names that a cut's fields had until version 1."""
        found = {"cuts": content} if isinstance(content, list) else content
        if not isinstance(found, dict) or not isinstance(found.get("cuts"), list):
            return found
        cuts = [
            {CUT_UNTIL_1.get(name, name): value for name, value in cut.items()} if isinstance(cut, dict) else cut
            for cut in found["cuts"]
        ]
        return found | {"cuts": cuts}
