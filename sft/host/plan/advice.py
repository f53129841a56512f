"""What the plan advises: what to change if it does not fit, and which settings are much faster."""

from __future__ import annotations

from dataclasses import replace

from sft.errors import wrong
from sft.host.plan.alternatives import (
    AUTO,
    OFFLOADING,
    Changes,
    adapters,
    as_typed,
    changed,
    cheaper,
    first_that_fits,
    more_hardware,
    shorter_rows,
    states_in_16_bits,
)
from sft.host.plan.job import GIB
from sft.host.plan.memory import evaluation_bytes
from sft.host.plan.plan import Plan
from sft.settings.fields import DS_CONFIGS
from sft.settings.stages import Resolved

WORTH_SAYING = 1.2  # times as fast as the present settings
WORTH_GROWING, WORTH_DOUBLING = 1.5, 1.25  # times as fast with a larger batch, in all and with each doubling
DISPLAY_GIB = 2.0  # of a GPU's memory that a desktop may use; more belongs to another program


def problem(plan: Plan) -> str:
    """Return the line that says what does not fit and what would; "" if all fits.

    It begins with the setting that has to change, if the user has set it.
    """
    if plan.fits:
        return evaluation_problem(plan)
    settings, conditions = plan.settings, plan.conditions
    if plan.fits_gpu and not plan.host.offloaded:
        what, remedy = f"its export {host_need(plan)}", "use a smaller model, or end programs that fill the memory"
        return f"does not fit: {conditions.model}: {what}; {remedy}"
    gpu_need = f"{conditions.model} needs {plan.memory.peak / GIB:.1f} GiB of each GPU, {usable(plan)}"
    what = host_need(plan) if plan.fits_gpu else gpu_need
    taken_gib = conditions.card.memory_gib - conditions.free_gib
    if (
        taken_gib > DISPLAY_GIB
        and Plan.of(plan.resolved, replace(conditions, free_gib=conditions.card.memory_gib)).fits
    ):
        remedy = f"end the program that has {taken_gib:.1f} GiB of it (`nvidia-smi`; `make monitor` shows a run)"
        return f"does not fit: {what}; {remedy}"
    culprit, remedy = culprit_and_remedy(plan)
    if culprit and getattr(settings, culprit) != type(settings).model_fields[culprit].default:
        return wrong(culprit.upper(), as_typed(getattr(settings, culprit)), f"does not fit: {what}", remedy)
    return f"does not fit: {what}; {remedy}"


def evaluation_problem(plan: Plan) -> str:
    """Return the line for a model that can be trained but is too large to be evaluated, or nothing."""
    needed = evaluation_bytes(plan.job, plan.work.largest, plan.conditions.rows.target_share)
    if not plan.settings.evaluate or needed <= plan.conditions.limit_bytes:
        return ""
    what = f"evaluation needs {needed / GIB:.1f} GiB for the model whole on each GPU, {usable(plan)}"
    return f"does not fit: {what}; use EVALUATE=0 and evaluate final/ on a larger card"


def usable(plan: Plan) -> str:
    """Return how much of a GPU's memory a run may use, in words."""
    return f"{plan.conditions.limit_bytes / GIB:.1f} GiB can be used on {plan.conditions.card.name}"


def host_need(plan: Plan) -> str:
    """Return how much of the machine's memory is needed and available, in words."""
    return f"needs {plan.host_gib:.1f} GiB of the machine's memory, {plan.conditions.host_gib:.1f} GiB can be used"


def culprit_and_remedy(plan: Plan) -> tuple[str, str]:
    """Return the setting to blame, if any, and what to do: the smallest change first.

    The smallest change is a cheaper way to train the same. Offloading costs so much time that states in 16 bits, an
    adapter and more GPUs are named beside it. Shorter rows are suggested only if nothing else fits.
    """
    same = first_that_fits(plan, cheaper(plan.settings))
    if same and same.changes.get("ds_config") not in OFFLOADING:
        return same.culprit, f"use {same.words}"
    in_16_bits = first_that_fits(plan, states_in_16_bits(plan.settings))
    adapter = first_that_fits(plan, adapters(plan.settings))
    found = [way for way in (in_16_bits, same, adapter) if way]
    if not found and (shorter := first_that_fits(plan, shorter_rows(plan.settings))):
        found = [shorter]
    words = [way.words for way in found]
    if more := more_hardware(plan, offload=same is None):
        whole = "all weights in 32 bits with " if in_16_bits else "all weights with "
        words.append((whole if adapter and not same else "") + " or ".join(more))
    if not found:
        words.append("a smaller model")
    return found[0].culprit if found else "", f"use {', or '.join(words)}"


def faster(plan: Plan) -> str:
    """Return the line that names a clearly faster DS_CONFIG, or a setting better left to auto; or nothing."""
    if not plan.fits:
        return ""
    settings = plan.settings
    set_by_user = [name for name in AUTO if getattr(plan.resolved, name) is not None]
    same = Plan.of(Resolved.of(settings, **{**AUTO}), plan.conditions)
    # None: quantised weights under ZeRO-3.
    others = [changed(plan, {"ds_config": name, **AUTO}) for name in DS_CONFIGS]
    best = min((same, *(other for other in others if other and other.fits)), key=lambda other: other.timing.total_s)
    if same.timing.total_s < WORTH_SAYING * best.timing.total_s:
        best = same  # the fewest changes that are enough
    times = plan.timing.total_s / best.timing.total_s
    if times < WORTH_SAYING:
        return ""
    new = [f"DS_CONFIG={best.settings.ds_config}"] * (best.settings.ds_config != settings.ds_config)
    new += [
        f"{name.upper()}=auto" for name in set_by_user if getattr(best.settings, name) != getattr(plan.resolved, name)
    ]
    why = ""
    if settings.lora_rank and plan.job.stage == 3 and best.job.stage < 3:
        why = ": it gathers no frozen weights, which fit each GPU whole"
    return f"{' '.join(new)} is {times:.1f} times as fast{why}"


def more_bits(plan: Plan) -> str:
    """Return the line for states in 16 bits that have room for 32; or nothing."""
    if plan.settings.optimizer_bits == 32:
        return ""
    found = changed(plan, {"optimizer_bits": 32, **AUTO})
    return "OPTIMIZER_BITS=32 fits too, without the noise of rounding to 16 bits" if found and found.fits else ""


def larger_batch(plan: Plan) -> Plan | None:
    """Return the plan with a larger GLOBAL_BATCH_SIZE that is much faster, or None.

    Every step costs some time whatever it holds (Python in each layer, the link, the optimizer). A larger step shares
    it between more tokens. The batch is doubled as long as each doubling is worth it.
    """
    found = plan
    while plan.fits:
        sequences = 2 * found.settings.sequences_per_step
        changes: Changes = {"global_batch_size": sequences, "gradient_accumulation_steps": 1}
        more = changed(plan, changes) if sequences <= plan.conditions.rows.rows else None
        if more is None or not more.fits:
            break
        if more.timing.tokens_per_second < WORTH_DOUBLING * found.timing.tokens_per_second:
            break
        found = more
    much = found.timing.tokens_per_second >= WORTH_GROWING * plan.timing.tokens_per_second
    return found if much else None
