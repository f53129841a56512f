"""How fast an earlier run was: `make plan MEASURED=NAME` takes it in place of the card's figures."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import replace

from sft.errors import SettingsError, wrong
from sft.host.plan import lookup, wire
from sft.host.plan.conditions import Conditions
from sft.host.plan.plan import Plan
from sft.run.directory import Run
from sft.run.find import find
from sft.settings.fields import Settings
from sft.settings.stages import Decided

SKIPPED = 2  # steps that a run begins with, in which kernels are compiled and memory is taken
LEAST = 3  # steps from which a speed is known: the median of the times between lines
TOKENS = "train/tokens"
TRIES, EXACT = 50, 0.001
# What decides how long computing takes, and is not planned anew for other settings.
SAME = ("precision", "compile", "lora_rank", "lora_base_bits")


def measured(settings: Settings, name: str, conditions: Conditions) -> Conditions:
    """Return the conditions with the speed of a run on one host, which did not wait for a network between hosts.

    Raises SettingsError if that run says nothing about these settings, and UserError if there is none.
    """
    run = find(settings.runs_path, name)
    before = run.settings()
    other = [
        f"{field.upper()}={getattr(before, field)}"
        for field in SAME
        if getattr(settings, field) not in ("auto", getattr(before, field))
    ]
    if wire.launcher_of(before) in wire.USUAL and before.nodes > 1:
        refuse(name, "that run was on several hosts, so its steps waited for the network", "name a run on one host")
    if other:
        refuse(name, f"that run had {', '.join(other)}", "name a run that trains the same")
    shape = lookup.need(before)
    if shape.weights != conditions.shape.weights:
        refuse(name, f"that run's model, {before.model_name}, is another one", "name a run with this model")
    step_s, tokens = step_of(run, name)
    rows = replace(conditions.rows, tokens_per_row=tokens / before.sequences_per_step)
    slower = factor(before, replace(conditions, wire=None, hpz=0, rows=rows), step_s)
    note = f"computing takes {slower:.3g} times as long as {conditions.card.name}'s figures say: measured by {run.name}"
    return replace(conditions, slower=slower, notes=(*conditions.notes, note))


def factor(settings: Decided, conditions: Conditions, step_s: float) -> float:
    """Return how many times as long computing has to take for the plan to say what was measured, seconds of a step."""
    slower = 1.0
    for _ in range(TRIES):
        ratio = step_s / Plan.of(settings, replace(conditions, slower=slower)).timing.step_s
        if abs(ratio - 1) < EXACT:
            break
        slower *= ratio  # too little if the link takes some of the time: hence again
    return slower


def step_of(run: Run, name: str) -> tuple[float, float]:
    """Return the seconds of a run's usual step, and its tokens."""
    found = ((line.step, line.time, line.values.get(TOKENS)) for line in run.read_metrics())  # may be a million
    lines = [(step, at, tokens) for step, at, tokens in found if at and tokens is not None][SKIPPED:]
    # Steps between two lines: none if an attempt began anew, whose pause is not a step.
    steps = [(b_at - a_at) / (b - a) for (a, a_at, _), (b, b_at, _) in itertools.pairwise(lines) if b > a]
    if len(steps) < LEAST:
        refuse(name, f"that run has logged {len(lines)} steps after its first {SKIPPED}", "name a longer run")
    return statistics.median(steps), statistics.mean(tokens for *_, tokens in lines)


def refuse(name: str, what: str, remedy: str) -> None:
    """Raise SettingsError."""
    raise SettingsError([wrong("MEASURED", name, what, remedy)])
