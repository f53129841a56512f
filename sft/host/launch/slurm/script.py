"""The job script of a run: job.sbatch with the run's numbers in it."""

from __future__ import annotations

import math
import re
import shlex
import sys
from pathlib import Path
from string import Template

from sft.host.launch.slurm.cluster import NodeKind
from sft.host.plan.memory import host_memory
from sft.host.plan.plan import Plan
from sft.run.directory import Run
from sft.settings.fields import Settings

TEMPLATE = Path(__file__).with_name("job.sbatch")
PROJECT = Path(__file__).parents[4]

# Seconds before the time limit at which a job is warned. Slurm looks at its jobs every half minute, and warns them that
# much early rather than late. Without a plan nobody knows how long a step and a checkpoint take.
LOOKS_EVERY_S = 30
UNPLANNED_LEAD_S = 120
SAFETY = 2.0  # a step and a checkpoint may take so many times as long as planned
DISK_BYTES_PER_S = 0.3e9  # a file system that many nodes share. ASSUMED.


def written(run: Run, settings: Settings, kinds: list[NodeKind], plan: Plan | None) -> str:
    """Return the text of the script."""
    ranks = settings.gpus_per_node
    fitting = [kind for kind in kinds if settings.device == "cpu" or kind.gpus >= ranks]
    cores = min((kind.cores_for(ranks) for kind in fitting), default=ranks)
    values = {
        "name": run.name,
        "nodes": settings.nodes,
        "cores": cores,
        "optional": "\n".join(f"#SBATCH {shlex.quote(option)}" for option in options(settings)) or "#",
        "lead": lead_s(settings, plan),
        "log": shlex.quote(f"{run.logs.absolute()}/job-%j.log"),
        "project": shlex.quote(str(PROJECT)),
        "python": shlex.quote(sys.executable),
        "run": shlex.quote(str(run.path.absolute())),
    }
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(values)


def options(settings: Settings) -> list[str]:
    """Return the options that a job has only if its settings name them."""
    named = {
        "--gpus-per-node": settings.gpus_per_node if settings.device == "cuda" else "",
        "--partition": settings.slurm_partition,
        "--account": settings.slurm_account,
        "--qos": settings.slurm_qos,
        "--constraint": settings.slurm_constraint,
        "--time": settings.slurm_time,
    }
    return [f"{option}={value}" for option, value in named.items() if value] + shlex.split(settings.slurm_extra)


def lead_s(settings: Settings, plan: Plan | None) -> int:
    """Return how many seconds before its time limit a job is warned: enough for a step and a checkpoint.

    A short job gets a shorter lead, so that it trains at all.
    """
    needed = UNPLANNED_LEAD_S
    if plan:
        needed = math.ceil(SAFETY * (plan.timing.step_s + host_memory(plan.job).save / DISK_BYTES_PER_S))
    limit = seconds_of(settings.slurm_time)
    return min(needed, max(1, (limit - LOOKS_EVERY_S) // 2)) if limit else needed


def seconds_of(limit: str) -> int:
    """Return the seconds of a time limit in Slurm's form; 0 for none."""
    if not limit:
        return 0
    days, dash, rest = limit.rpartition("-")
    numbers = [int(number) for number in re.findall(r"\d+", rest)]
    if dash:  # days-hours[:minutes[:seconds]]
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 1:  # minutes
        hours, minutes, seconds = 0, numbers[0], 0
    else:  # [hours:]minutes:seconds
        hours, minutes, seconds = [0, *numbers][-3:]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
