"""Plans for `make plan` and before a run."""

from __future__ import annotations

from dataclasses import replace

from sft.errors import SettingsError, UserError, wrong
from sft.host import gpus
from sft.host.plan import advice, earlier, lookup, wire
from sft.host.plan.conditions import Options, conditions
from sft.host.plan.plan import Plan
from sft.run import typed_json
from sft.run.directory import Run
from sft.settings.fields import GPUS_OF_A_NODE, Settings
from sft.settings.stages import Decided, Resolved, resolve, without_plan


def plan_with(settings: Settings, options: Options) -> Plan:
    """Return the plan of settings on the GPUs of this machine, or as the options say. Raises UserError."""
    hosts = max(1, options.hosts)
    if options.gpus > GPUS_OF_A_NODE * hosts:
        more = "" if options.hosts else f", or HOSTS={max(2, options.gpus // 8)} for as many machines"
        raise UserError(wrong("GPUS", options.gpus, "is out of range", f"use at most {GPUS_OF_A_NODE * hosts}{more}"))
    if options.gpus % hosts:
        raise UserError(wrong("GPUS", options.gpus, f"cannot be shared by {hosts} hosts", f"use a multiple of {hosts}"))
    if options.gpus or options.hosts:
        of_a_host = options.gpus // hosts or wire.gpus_of_a_host(settings)
        settings = Settings.of(settings, nodes=hosts, gpus_per_node=of_a_host)
    found = conditions(settings, gpus.visible()[: settings.world_size // hosts], options)
    if settings.device == "cpu" and not (options.gpu or options.gpu_gib):
        unplanned = f"DEVICE=cpu: a run trains on the CPU, which needs no plan; this is what {found.card.name} would do"
        found = replace(found, notes=(unplanned,))
    if options.measured:
        # On a CPU computing waits for gloo, which has no stream of its own.
        found = replace(found, in_turns=settings.device == "cpu")
        found = earlier.measured(settings, options.measured, found)
    return Plan.of(resolve(settings, "cuda", "local", found.card.has_bf16), found)


def plan_run(settings: Resolved, here: list[gpus.Gpu], host_gib: float = 0.0) -> tuple[Decided, Plan | None]:
    """Return the settings of a run with the plan's numbers instead of auto, and the plan.

    `host_gib`: main memory of a node; 0: what is free here. There is no plan on a CPU, for a model of unknown shape, or
    for cards of unknown memory: the run finds its budget by trying. Raises SettingsError for settings that cannot fit,
    unless PLAN=warn or the model's shape is a guess.
    """
    if settings.device != "cuda" or not lookup.is_known(settings) or not all(card.total_gib for card in here):
        return without_plan(settings), None
    plan = Plan.of(settings, conditions(settings, here, Options(host_gib=host_gib)))
    problem = advice.problem(plan)
    if problem and settings.plan == "refuse" and not plan.conditions.shape.doubt:
        raise SettingsError([problem])
    return plan.settings, plan


def freeze(plan: Plan | None, run: Run) -> None:
    """Write the plan into the run directory; without a plan, remove that of an earlier attempt."""
    if plan:
        typed_json.write(run.plan, plan.summary())
    else:
        run.plan.unlink(missing_ok=True)
