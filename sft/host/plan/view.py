"""The plan as text, in 80 columns."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from sft.errors import SettingsError
from sft.host.plan import advice, disk, several_hosts
from sft.host.plan.alternatives import variants
from sft.host.plan.conditions import Options
from sft.host.plan.job import GIB
from sft.host.plan.memory import host_memory
from sft.host.plan.plan import Plan
from sft.host.plan.planner import plan_with
from sft.host.screen import duration
from sft.nouns import counted
from sft.run import metrics
from sft.run.directory import Run
from sft.run.records import PlanSummary
from sft.settings.fields import Settings

SHOWN_BYTES = 0.05 * GIB  # smaller parts are left out of the lines before a run
LABELS = {"buckets": "buckets, gathered weights"}


def show(settings: Settings, options: Options, console: Console, as_json: bool) -> None:
    """Print a plan, then raise SettingsError for settings that cannot fit, unless PLAN=warn."""
    found = plan_with(settings, options)
    problem = advice.problem(found)
    if as_json:
        variants_json = [{"name": name} | variant.summary().to_json() for name, variant in variants(found)]
        more = {"problem": problem, "several_hosts": several_hosts.summary(found), "variants": variants_json}
        console.print(json.dumps(found.summary().to_json() | more, indent=2))
    else:
        for line in full_lines(found):
            console.print(line)
    if problem and settings.plan == "refuse":
        raise SettingsError([problem])
    if problem and not as_json:
        console.print(problem)


def short_lines(plan: Plan | None) -> list[str]:
    """Return the few lines of a plan that are printed before a run; none without a plan."""
    if plan is None:
        return []
    parts = plan.memory.moments[plan.memory.peak_moment].by_name()
    largest = sorted((part for part in parts if parts[part] >= SHOWN_BYTES), key=lambda part: -parts[part])
    memory = ", ".join(f"{part} {parts[part] / GIB:.1f}" for part in largest)
    recompute = "recomputed" if plan.job.recompute else "kept"
    timing = plan.timing
    lines = [
        f"{plan.memory.peak / GIB:.1f} of {plan.conditions.limit_bytes / GIB:.1f} GiB on each GPU: {memory}",
        f"{micro_step_size(plan)}, activations {recompute}",
        f"{counted(plan.work.steps, 'step')} of {seconds(timing.step_s)}, {timing.tokens_per_second:,.0f} tokens/s: "
        f"{duration(timing.total_s)} of training; `make plan` says more",
    ]
    lines += [line for line in (*plan.conditions.notes, advice.problem(plan), *better(plan)) if line]
    return [f"{'plan' if not i else '':>10}{':' if not i else ' '} {line}" for i, line in enumerate(lines)]


def micro_step_size(plan: Plan) -> str:
    """Return the size of the micro-steps, in words."""
    if not plan.settings.packing:
        return f"up to {plan.work.largest:,} tokens a micro-step, padded"
    return f"micro-steps of up to {plan.settings.max_tokens_per_micro_step:,} tokens"


def full_lines(plan: Plan) -> Iterator[str]:
    """Yield the lines of `inv plan`."""
    conditions, settings = plan.conditions, plan.settings
    quantised = f", {plan.job.quantised / 1e9:.2f} of them in 4 bits" if plan.job.quantised else ""
    yield f"{conditions.model}: {amount(conditions.shape.weights)} weights, {settings.precision}{quantised}"
    yield f"  {conditions.shape.source}"
    yield f"on {settings.world_size} x {conditions.card.name}, {conditions.free_gib:.1f} GiB free on each"
    for note in conditions.notes:
        yield from textwrap.wrap(note, 80, initial_indent="  ", subsequent_indent="    ")
    rows = conditions.rows
    yield f"{counted(rows.rows, 'row')} of {rows.tokens_per_row:.0f} tokens, longest {rows.longest}"
    yield f"  {rows.source}"
    yield ""
    yield from memory_table(plan)
    yield ""
    yield from step_lines(plan)
    yield ""
    yield from comparison_table(plan)


def amount(weights: int) -> str:
    """Return a number of weights in words."""
    if weights >= 1e9:
        return f"{weights / 1e9:.2f} billion"
    return f"{weights / 1e6:.0f} million" if weights >= 1e6 else f"{weights / 1e3:.0f} thousand"


def memory_table(plan: Plan) -> Iterator[str]:
    """Yield what is in a GPU's memory at the three moments of a step that may be its peak, by part."""
    moments = {moment: parts.by_name() for moment, parts in plan.memory.moments.items()}
    heads = {"forward": "loss", "backward": "backward", "optimizer": "optimizer"}
    yield f"{'GiB on each GPU, at the':<26}" + "".join(f"{heads[moment]:>11}" for moment in moments)
    for part in moments["forward"]:
        yield f"  {LABELS.get(part, part):<24}" + "".join(f"{parts[part] / GIB:>11.2f}" for parts in moments.values())
    yield f"  {'total':<24}" + "".join(f"{parts.total / GIB:>11.2f}" for parts in plan.memory.moments.values())
    verdict = "fits" if plan.fits_gpu else "does NOT fit"
    yield f"  peak {plan.memory.peak / GIB:.2f}, usable {plan.conditions.limit_bytes / GIB:.2f}: {verdict}"
    yield from host_lines(plan)


def host_lines(plan: Plan) -> Iterator[str]:
    """Yield what is in the machine's memory: all the time, while a checkpoint is written, and during the export."""
    host, usable = plan.host, plan.conditions.host_gib
    parts = {"offloaded": host.offloaded, "copy to save": host.save, "export": host.export}
    of_parts = ", ".join(f"{part} {size / GIB:.1f}" for part, size in parts.items() if size)
    total = host.usual if plan.saves_beside_training else host.needed
    verdict = "fits" if plan.host_gib <= usable else "does NOT fit"
    yield f"  machine's memory {total / GIB:.1f}, usable {usable:.1f}: {verdict}"
    yield f"    ({of_parts})"
    if not plan.saves_beside_training:
        yield "    no room for the copy: training waits while a checkpoint is written"


def step_lines(plan: Plan) -> Iterator[str]:
    """Yield what a step does and how long it takes."""
    work, timing, settings = plan.work, plan.timing, plan.settings
    tokens = work.tokens_per_step * settings.world_size
    times = f"{work.micro_steps} micro-step{'s' * (work.micro_steps > 1)} of {work.micro_tokens:,.0f}"
    yield f"{'step':<7}{settings.sequences_per_step} sequences, {tokens:,.0f} tokens: {times} on each GPU"
    recompute = "recomputed" if plan.job.recompute else "kept"
    yield f"{'':<7}{micro_step_size(plan)}; activations {recompute}"
    if plan.job.ranks > 1 or plan.job.offload_optimizer:
        yield from link_lines(plan)
    bound = ", bound by Python" if timing.python_s > 0.9 * timing.computing_s else ""
    yield (
        f"{'time':<7}{seconds(timing.step_s)} a step: micro-steps {seconds(timing.computing_s)}{bound}, "
        f"optimizer {seconds(timing.optimizer_s)}"
    )
    yield (
        f"{'run':<7}{counted(work.steps, 'step')}, {work.tokens:,} tokens at {timing.tokens_per_second:,.0f} tokens/s: "
        f"{duration(timing.total_s)}"
    )
    yield from disk_lines(plan)
    for line in better(plan):
        yield from textwrap.wrap(line, 80, initial_indent=" " * 7, subsequent_indent=" " * 9)


def link_lines(plan: Plan) -> Iterator[str]:
    """Yield what crosses the link between the ranks in a step, and between hosts if there are several."""
    timing, card, wire = plan.timing, plan.conditions.card, plan.conditions.wire
    speed = (plan.job.stage < 3 and card.all_reduce_gb_s) or card.link_gb_s
    yield f"{'link':<7}{timing.link_bytes / 1e9:.2f} GB a step: {seconds(timing.link_s)}"
    yield f"{'':<7}{card.link}, {speed:.3g} GB/s"
    if wire:
        sent = f"{timing.wire_bytes / 1e9:.2f} GB a step through each host's network card"
        yield f"{'wire':<7}{sent}, {wire.gb_s:.3g} GB/s"
        for line in (wire.name, *several_hosts.lines(plan)):
            yield from textwrap.wrap(line, 80, initial_indent=" " * 7, subsequent_indent=" " * 9)


def disk_lines(plan: Plan) -> Iterator[str]:
    """Yield what a run needs of RUNS_PATH, and how long a save takes if its disk was measured."""
    conditions = plan.conditions
    host = host_memory(plan.job)  # of all hosts: they share RUNS_PATH
    number = disk.checkpoints(plan.settings, conditions.rows)
    yield f"{'disk':<7}{disk.in_words(number, host.save, host.export)}"
    if conditions.disk_gb_s:
        speed = f"{conditions.disk_gb_s:.3g} GB/s, measured on {conditions.disk_measured_on}"
        yield f"{'':<7}a save takes {seconds(host.save / conditions.disk_gb_s / 1e9)} at {speed}"


def better(plan: Plan) -> list[str]:
    """Return the lines that name much faster settings."""
    lines = [advice.faster(plan), advice.more_bits(plan)]
    if more := advice.larger_batch(plan):
        speed = f"{more.timing.tokens_per_second:,.0f} tokens/s: {duration(more.timing.total_s)}"
        size = f"GLOBAL_BATCH_SIZE={more.settings.sequences_per_step}"
        lines.append(f"small steps: {size} gives {speed}, {counted(more.work.steps, 'step')}")
    return [line for line in lines if line]


def comparison_table(plan: Plan) -> Iterator[str]:
    """Yield a row for each way to train, with its best budget; the fastest that fits and the chosen one are marked."""
    rows = list(variants(plan))
    best = {adapted: fastest(rows, adapted) for adapted in (False, True)}
    yield f"  {'DS_CONFIG':<18}{'recompute':<10}{'tokens':>7}{'GPU GiB':>9}{'host GiB':>9}{'tokens/s':>10}{'time':>9}"
    for name, found in rows:
        label, recompute = Path(name).name[:17], "yes" if found.job.recompute else "no"
        tokens = found.settings.max_tokens_per_micro_step if plan.settings.packing else found.work.largest
        speed = f"{found.timing.tokens_per_second:>10,.0f}{duration(found.timing.total_s):>9}"
        is_best = found.fits and found.timing.total_s <= best[found.job.lora_rank > 0]
        yield (
            f"{'>' if found is plan else ' '} {label:<18}{recompute:<10}{tokens:>7,}"
            f"{found.memory.peak / GIB:>9.1f}{found.host.usual / GIB:>9.1f}"
            f"{speed if found.fits else 'does not fit':>19}{' *' if is_best else ''}"
        )
    yield "  > as set   * fastest that fits, of all weights and of a LoRA adapter"
    if of_a_host := max(found.conditions.hpz for _, found in rows):
        yield f'  hpZ: a DS_CONFIG file with "zero_hpz_partition_size": {of_a_host} (tried on CPU only)'


def fastest(rows: list[tuple[str, Plan]], adapted: bool) -> float:
    """Return the least time of the plans that fit, of all weights or of an adapter."""
    times = [found.timing.total_s for _, found in rows if found.fits and (found.job.lora_rank > 0) == adapted]
    return min(times, default=0.0)


def seconds(value: float) -> str:
    """Return the time of a step in words."""
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def against_measured(run: Run) -> str:
    """Return a run's plan compared with what was measured; "" if one of them is missing (on a CPU)."""
    planned = run.record(run.plan, PlanSummary)
    if planned is None:
        return ""
    measured = (line.values for line in metrics.from_the_end(run.metrics) if line.values.get("mem/peak_gib"))
    last = next(measured, None)
    if last is None:
        return ""
    peak, speed = last["mem/peak_gib"], last.get("perf/tokens_per_second", 0.0)
    memory = f"{planned.allocated_gib:.1f} GiB, measured {peak:.1f} ({ratio(planned.allocated_gib, peak)})"
    rate = f"{planned.tokens_per_second:,} tokens/s, measured {speed:,.0f}"
    return f"{memory}; {rate} ({ratio(planned.tokens_per_second, speed)})"


def ratio(planned: float, measured: float) -> str:
    """Return the difference between plan and measurement in per cent."""
    return f"{planned / measured - 1:+.0%}" if measured else "?"
