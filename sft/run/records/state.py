"""`state.json`: what a run is doing."""

from __future__ import annotations

from dataclasses import field
from typing import Literal, TypedDict

from sft.run.light import dataclass
from sft.run.typed_json import Record

Status = Literal[
    "queued", "launching", "preparing", "training", "saving", "evaluating", "finished", "stopped", "failed"
]
ENDED: tuple[Status, ...] = ("finished", "stopped", "failed")
Moment = Literal["before", "after"]  # training: when the base and the tuned model are evaluated
Evaluating = Literal["before", "during", "after"]


@dataclass(frozen=True, kw_only=True)
class State(Record):
    """`state.json`: what a run is doing. Written twice a second while it works; times are seconds since 1970."""

    has_errors = True

    status: Status = "launching"
    step: int = 0  # optimizer steps that are done
    total_steps: int = 0  # 0: not known yet
    epoch: float = 0.0
    error: str | None = None  # why the last attempt failed
    earlier_errors: list[str] = field(default_factory=list)  # why the attempts before it failed, the oldest first
    attempt: int = 1
    started_at: float | None = None
    attempt_started_at: float | None = None
    hours_from: float | None = None  # MAX_HOURS counts from here
    updated_at: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)  # spent in each phase, over all attempts
    loss: float | None = None  # of the last step; None if it was not finite, which fp16's loss scaling skips
    tokens_per_second: float | None = None  # None: no step yet in this attempt, and so with time_left_s
    time_left_s: float | None = None
    evaluating: Evaluating | None = None  # which evaluation the next two numbers belong to
    answers: int = 0
    total_answers: int = 0
    warnings: list[str] = field(default_factory=list)  # of this attempt, for whoever watches it
    wandb: str | None = None  # the run's page, or why nothing is logged there


class StateChanges(TypedDict, total=False):
    """The fields of State that a writer may give; `status` and `updated_at` are set by Run.update_state itself."""

    step: int
    total_steps: int
    epoch: float
    error: str | None
    earlier_errors: list[str]
    attempt: int
    started_at: float
    attempt_started_at: float
    hours_from: float
    seconds: dict[str, float]
    loss: float | None
    tokens_per_second: float | None
    time_left_s: float | None
    evaluating: Evaluating | None
    answers: int
    total_answers: int
    warnings: list[str]
    wandb: str | None
