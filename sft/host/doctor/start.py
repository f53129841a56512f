"""Whether `make train` would start with these settings: it decides as the run itself does, and starts nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sft.errors import UserError
from sft.host import folders
from sft.host.check import Check, Level
from sft.host.doctor import hardware, hub, wandb
from sft.host.launch import decide, inputs
from sft.host.launch.launcher import Launcher
from sft.host.plan import advice, view
from sft.host.plan.job import GIB
from sft.host.plan.plan import Plan
from sft.host.screen import duration
from sft.nouns import counted
from sft.run import find
from sft.settings.fields import Settings

ABOUT_GPUS = ("DEVICE=", "GPUS_PER_NODE=")  # how problems begin that the check of the GPUs names too


def checks(settings: Settings, chosen: Launcher) -> Iterator[Check]:
    """Yield the checks of what the run needs: its inputs, and everything that is decided before it."""
    yield wandb.wandb_key(settings)
    yield runs_at_work(settings)
    yield from (Check.from_problem("folders", line) for line in folders.problems(settings))
    yield from hardware.disks(settings)
    yield from model_and_data(settings)
    yield from decided(settings, chosen.on_this_machine and hardware.gpu(settings).level == "failure")
    yield from hub.checks(settings)


def decided(settings: Settings, gpus_are_missing: bool) -> Iterator[Check]:
    """Yield the checks of everything that is decided before a run. `gpus_are_missing`: another check says so."""
    try:  # with PLAN=warn there is a plan to show even if it is refused; the disk has a check of its own
        decision = decide.on_machine(Settings.of(settings, plan="warn"))
    except UserError as error:
        lines = [line for line in str(error).splitlines() if not (gpus_are_missing and line.startswith(ABOUT_GPUS))]
        yield from (Check.from_problem("run", line) for line in lines)
        return
    values = {"launcher": decision.launcher.name, "gpus": len(decision.cards)}
    yield Check("run", "ok", decision.lines[0], values=values)
    if decision.plan is None:
        yield Check("plan", "ok", "none: a run on the CPU, or of a model that the plan does not know, tries what fits")
    else:
        yield planned(decision.plan, settings.plan == "refuse")
        yield host_memory(decision.plan)


def runs_at_work(settings: Settings) -> Check:
    """Check whether another run is at work here, which has its part of the GPUs and of the memory."""
    runs = [str(run.path) for run in find.at_work(settings.runs_path)]
    if runs:
        what = f"{', '.join(runs)} {'are' if len(runs) > 1 else 'is'} at work"
        return Check("runs", "warning", what, "`make stop` ends a run; until then it shares this machine")
    return Check("runs", "ok", "none is at work")


def model_and_data(settings: Settings) -> Iterator[Check]:
    """Yield the checks of local model and data, and of the chat template's file."""
    try:
        inputs.check(settings)
    except UserError as error:
        yield from (Check.from_problem("model and data", line) for line in str(error).splitlines())
    else:
        yield Check("model and data", "ok", "no problem in the local files")


def planned(plan: Plan, refuses: bool) -> Check:
    """Return whether the run fits the GPUs, and how long it takes. `refuses`: one that does not fit would not start."""
    timing = plan.timing
    values = {
        "peak_gib": round(plan.memory.peak / GIB, 2),
        "usable_gib": round(plan.conditions.limit_bytes / GIB, 2),
        "step_s": round(timing.step_s, 4),
        "total_s": round(timing.total_s),
    }
    if problem := advice.problem(plan):
        level: Level = "failure" if refuses and not plan.conditions.shape.doubt else "warning"
        return replace(Check.from_problem("plan", problem), level=level, values=values)
    fits = f"{values['peak_gib']:.1f} of {values['usable_gib']:.1f} GiB on each {plan.conditions.card.name}"
    steps = f"{counted(plan.work.steps, 'step')} of {view.seconds(timing.step_s)}: {duration(timing.total_s)}"
    return Check("plan", "ok", f"{fits}; {steps}", values=values)


def host_memory(plan: Plan) -> Check:
    """Return whether the machine's memory holds what is offloaded and exported, and the copy that is saved."""
    host, free = plan.host, plan.conditions.host_gib
    parts = {"offloaded": host.offloaded, "the copy to save": host.save, "the export": host.export}
    words = ", ".join(f"{part} {size / GIB:.1f}" for part, size in parts.items() if size)
    found = f"{free:.1f} GiB free; {words} GiB"
    values = {
        "free_gib": round(free, 2),
        "needed_gib": round(plan.host_gib, 2),
        "with_copy_gib": round(host.usual / GIB, 2),
    }
    if not plan.saves_beside_training:
        remedy = "a higher SAVE_STEPS waits less often; a machine with more memory does not wait"
        what = f"{found}: training waits while a checkpoint is written"
        return Check("host memory", "warning", what, remedy, values=values)
    return Check("host memory", "ok", found, values=values)
