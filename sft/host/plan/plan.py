"""The plan: does it fit, how long does it take. Computed before anything starts, without a GPU, the hub or torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from sft.host.plan import workload
from sft.host.plan.conditions import Conditions
from sft.host.plan.job import GIB, Job
from sft.host.plan.memory import GpuMemory, HostMemory, gpu_memory, host_memory, tokens_that_fit
from sft.host.plan.timing import Timing, step_timing
from sft.host.plan.workload import Work
from sft.run.records import PlanSummary
from sft.settings.stages import Decided, Resolved

LARGEST_BUDGET = 32768  # tokens; larger micro-steps are hardly faster

# The settings that a plan depends on.
PLANNED_BY = (
    "ds_config", "gradient_checkpointing", "max_tokens_per_micro_step", "precision", "compile", "packing", "batch_size",
    "max_length", "optimizer_bits", "lora_rank", "lora_base_bits",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Memory and time that settings need under given conditions."""

    resolved: Resolved  # with auto where the user left it
    settings: Decided  # with numbers instead of auto
    conditions: Conditions
    job: Job
    memory: GpuMemory
    work: Work
    timing: Timing

    @classmethod
    def of(cls, resolved: Resolved, conditions: Conditions) -> Plan:
        settings = without_auto(resolved, conditions)
        job = job_of(settings, conditions)
        work = workload.work(settings, conditions.rows, settings.max_tokens_per_micro_step)
        memory = gpu_memory(job, work.largest, conditions.rows.target_share, work.micro_steps)
        return cls(resolved, settings, conditions, job, memory, work, step_timing(job, work, conditions.rows))

    @property
    def host(self) -> HostMemory:
        """What the run needs of the machine's memory."""
        return host_memory(self.job).of_a_host(self.job.hosts)

    @property
    def host_gib(self) -> float:
        """GiB of the machine's memory without which the run fails."""
        return self.host.needed / GIB

    @property
    def saves_beside_training(self) -> bool:
        """Whether the machine's memory has room for the copy that a checkpoint is written from."""
        return self.host.usual / GIB <= self.conditions.host_gib

    @property
    def fits_gpu(self) -> bool:
        return self.memory.peak <= self.conditions.limit_bytes

    @property
    def fits(self) -> bool:
        """Whether the memory of both the GPUs and the machine is enough."""
        return self.fits_gpu and self.host_gib <= self.conditions.host_gib

    def summary(self) -> PlanSummary:
        """Return the plan in GiB and seconds."""
        moments: dict[str, dict[str, float]] = {
            moment: {part: round(size / GIB, 3) for part, size in parts.by_name().items()}
            for moment, parts in self.memory.moments.items()
        }
        conditions = self.conditions
        return PlanSummary(
            model=conditions.model,
            weights=conditions.shape.weights,
            shape=conditions.shape.source,
            rows=asdict(conditions.rows),
            gpu=conditions.card.name,
            gpus=self.settings.world_size,
            gpu_gib=round(conditions.card.memory_gib, 2),
            usable_gib=round(conditions.limit_bytes / GIB, 2),
            settings={name: getattr(self.settings, name) for name in PLANNED_BY},
            fits=self.fits,
            memory_gib=moments,
            peak_moment=self.memory.peak_moment,
            peak_gib=round(self.memory.peak / GIB, 3),
            allocated_gib=round(self.memory.allocated / GIB, 3),  # to compare with mem/peak_gib
            host_gib=round(self.host.usual / GIB, 3),
            host_memory_gib={part: round(size / GIB, 3) for part, size in asdict(self.host).items()},
            saves_beside_training=self.saves_beside_training,
            work=asdict(self.work),
            timing=asdict(self.timing),
            tokens_per_second=round(self.timing.tokens_per_second),
            notes=list(conditions.notes),
        )


def job_of(settings: Resolved, conditions: Conditions) -> Job:
    """Return the job of settings under given conditions."""
    job = Job.of(settings, conditions.shape, conditions.card, conditions.fused)
    job = replace(job, slower=conditions.slower, in_turns=conditions.in_turns)
    wire = conditions.wire
    if wire is None:
        return job
    return replace(job, hosts=wire.hosts, wire_gb_s=wire.gb_s, hpz=conditions.hpz or job.hpz)


def without_auto(settings: Resolved, conditions: Conditions) -> Decided:
    """Return the settings with numbers for the token budget and recomputation, if they say auto.

    The budget is the largest that fits, up to what a step needs: fewer and larger micro-steps are never slower.
    Recomputing makes room for larger micro-steps: of the ways that fit, the fastest is chosen. If none fits, it is the
    one that needs the least memory.
    """
    rows = conditions.rows
    needed = workload.needed(settings, rows)
    cap = max(settings.max_length, min(LARGEST_BUDGET, -(-needed // 256) * 256)) if settings.packing else needed
    chosen = settings.gradient_checkpointing
    found = []
    for recompute in (False, True) if chosen is None else (chosen,):
        candidate = Resolved.of(settings, gradient_checkpointing=recompute)
        job = job_of(candidate, conditions)
        fitting = tokens_that_fit(job, conditions.limit_bytes, rows.target_share, cap)
        budget = settings.max_tokens_per_micro_step or max(settings.max_length, fitting)
        decided = Decided.of(candidate, max_tokens_per_micro_step=budget)
        work = workload.work(decided, rows, decided.max_tokens_per_micro_step)
        peak = gpu_memory(job, work.largest, rows.target_share, work.micro_steps).peak
        fits = peak <= conditions.limit_bytes
        found.append((not fits, step_timing(job, work, rows).total_s if fits else peak, decided))
    return min(found, key=lambda way: way[:2])[2]
