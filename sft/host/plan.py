"""The plan: does it fit, how long does it take, and what would be better. Reckoned before anything starts.

It needs no GPU, no hub and no torch: a model's shape, a card's figures, the rows' figures and the settings. It puts
numbers where settings say auto, and refuses those that cannot fit, naming the nearest that do.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sft import files, machine
from sft.errors import SettingsError, UserError, wrong
from sft.host import cards, gpus, shapes, workload
from sft.host.cards import Card
from sft.host.estimate import (
    GIB,
    HostMemory,
    Job,
    Memory,
    Timing,
    evaluation_bytes,
    host_memory,
    memory,
    timing,
    tokens_that_fit,
)
from sft.host.shapes import Shape
from sft.host.workload import Rows, Work
from sft.run import Run
from sft.settings import DS_CONFIGS, Settings

MARGIN = 0.04  # of a card's memory that no plan uses: the plan's own error, and what the allocator cannot fill
LARGEST_BUDGET = 32768  # tokens; larger micro-steps are hardly faster
ENOUGH_TOKENS = 2048  # a budget below it is worth recomputing activations: micro-steps would be bound by Python
STAND_IN = "RTX 4090"  # the card that is planned for where none is here, and whose speed unknown ones get
OFFLOADING = ("zero3_offload", "zero3_offload_all")  # DS_CONFIGS that keep more and more in the machine's memory
WORTH_SAYING = 1.2  # times as fast as what was set
LORA_RANK = 16  # of the adapters that the table shows
DISPLAY_GIB = 2.0  # of a GPU's memory that a desktop may have; more is another program's
DRIVER_GIB = 0.35  # that nvidia-smi counts and CUDA does not give: 24.0 and 23.65 on an RTX 4090
MANY_GPUS = (2, 4, 8, 16, 32, 64)  # numbers that are tried where a model does not fit


@dataclass(frozen=True)
class Place:
    """Where and with what a run is to be: all that its settings do not say."""

    shape: Shape
    card: Card
    rows: Rows
    free_gib: float  # of a GPU's memory that nobody else uses
    host_gib: float  # of memory that the machine can spare
    fused: bool  # Liger's kernels are there
    notes: tuple[str, ...] = ()

    @property
    def limit_bytes(self) -> float:
        """Bytes of a GPU's memory that a plan may use."""
        return self.free_gib * GIB * (1 - MARGIN)


@dataclass(frozen=True)
class Plan:
    """What settings need at a place. Their budget and recomputation are numbers here, not auto."""

    settings: Settings
    place: Place
    job: Job
    memory: Memory
    work: Work
    timing: Timing

    @classmethod
    def of(cls, settings: Settings, place: Place) -> Plan:
        """Plan settings whose precision is known."""
        settings = decided(settings, place)
        job = Job.of(settings, place.shape, place.card, place.fused)
        work = workload.work(settings, place.rows, settings.micro_step_tokens)
        needs = memory(job, work.largest, place.rows.target_share, work.micro_steps)
        return cls(settings, place, job, needs, work, timing(job, work, place.rows))

    @property
    def host(self) -> HostMemory:
        """Bytes in the machine's memory."""
        return host_memory(self.job)

    @property
    def host_gib(self) -> float:
        """GiB of the machine's memory without which the run breaks."""
        return self.host.needed / GIB

    @property
    def saves_beside_training(self) -> bool:
        """Whether the machine's memory has room for the copy that a checkpoint is written from."""
        return self.host.usual / GIB <= self.place.host_gib

    @property
    def fits_gpu(self) -> bool:
        """Whether the GPUs' memory is enough."""
        return self.memory.peak <= self.place.limit_bytes

    @property
    def fits(self) -> bool:
        """Whether the memory of GPUs and machine is enough."""
        return self.fits_gpu and self.host_gib <= self.place.host_gib

    def problem(self) -> str:
        """Return the line that says what cannot fit and what would, or nothing."""
        settings, place = self.settings, self.place
        evaluating = evaluation_bytes(self.job, self.work.largest, place.rows.target_share)
        if self.fits and settings.evaluate and evaluating > place.limit_bytes:
            what = (
                f"the model whole on each GPU needs {evaluating / GIB:.1f} GiB, {place.limit_bytes / GIB:.1f} GiB can"
            )
            remedy = "use EVALUATE=0 and evaluate final/ on a larger card"
            return wrong("EVALUATE", 1, f"{what} be used on {place.card.name}", remedy)
        if self.fits:
            return ""
        if self.fits_gpu and not self.host.offloaded:
            remedy = "use a smaller model, or end what fills the memory"
            return wrong("MODEL_NAME", settings.model_name, f"its export {self.host_problem()}", remedy)
        if self.fits_gpu:
            what = self.host_problem()
        else:
            what = f"needs {self.memory.peak / GIB:.1f} GiB of a GPU, {place.limit_bytes / GIB:.1f} GiB can be used"
            what += f" on {place.card.name}"
        taken_gib = place.card.memory_gib - place.free_gib
        if taken_gib > DISPLAY_GIB and Plan.of(settings, replace(place, free_gib=place.card.memory_gib)).fits:
            remedy = f"end what has {taken_gib:.1f} GiB of it (`nvidia-smi`; `inv monitor` shows a run)"
            return wrong("GPUS_PER_NODE", settings.gpus_per_node, what, remedy)
        for changes in nearest(settings):
            # A budget or recomputation of the user's own that is not among the changes stays.
            found = Plan.of(settings.model_copy(update=changes), place)
            if found.fits:
                name = next(iter(changes))
                new = {key: getattr(found.settings, key) for key in changes}
                new = {key: value for key, value in new.items() if key == name or value != getattr(settings, key)}
                remedy = f"use {in_words(new)}"
                if "lora_rank" in changes and (ways := larger(settings, place)):
                    remedy += f", or all weights with {' or '.join(ways)}"
                return wrong(name.upper(), shown(getattr(settings, name)), what, remedy)
        name = "ds_config" if self.fits_gpu else "model_name"
        remedy = f"use {' or '.join([*larger(settings, place), 'a smaller model'])}"
        return wrong(name.upper(), getattr(settings, name), what, remedy)

    def host_problem(self) -> str:
        """Return how much of the machine's memory is needed, and how much there is."""
        return f"needs {self.host_gib:.1f} GiB of the machine's memory, {self.place.host_gib:.1f} GiB can be used"

    def faster(self) -> str:
        """Return the line that tells an adapter's run of ZeRO-2 where that is far faster, or nothing.

        Its frozen weights are then whole on every GPU, and none of them is gathered.
        """
        if not self.settings.lora_rank or self.job.stage < 3:
            return ""
        auto = {"max_tokens_per_micro_step": None, "gradient_checkpointing": None}
        whole = Plan.of(self.settings.model_copy(update=auto | {"ds_config": "zero2"}), self.place)
        times = self.timing.total_s / whole.timing.total_s
        if not whole.fits or times < WORTH_SAYING:
            return ""
        return f"DS_CONFIG=zero2 is {times:.1f} times as fast: it gathers no frozen weights, which fit each GPU whole"

    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON data, in GiB and seconds."""
        moments = {
            moment: {part: round(size / GIB, 3) for part, size in parts.items()}
            for moment, parts in self.memory.moments.items()
        }
        return {
            "model": self.settings.model_name,
            "weights": self.place.shape.weights,
            "shape": self.place.shape.source,
            "rows": asdict(self.place.rows),
            "gpu": self.place.card.name,
            "gpus": self.settings.world_size,
            "gpu_gib": round(self.place.card.memory_gib, 2),
            "usable_gib": round(self.place.limit_bytes / GIB, 2),
            "settings": {name: getattr(self.settings, name) for name in PLANNED_BY},
            "fits": self.fits,
            "memory_gib": moments,
            "peak_moment": self.memory.peak_moment,
            "peak_gib": round(self.memory.peak / GIB, 3),
            "allocated_gib": round(self.memory.allocated / GIB, 3),  # to compare with mem/peak_gib
            "host_gib": round(self.host.usual / GIB, 3),
            "host_memory_gib": {part: round(size / GIB, 3) for part, size in asdict(self.host).items()},
            "saves_beside_training": self.saves_beside_training,
            "work": asdict(self.work),
            "timing": asdict(self.timing),
            "tokens_per_second": round(self.timing.tokens_per_second),
            "notes": list(self.place.notes),
        }


PLANNED_BY = (
    "ds_config", "gradient_checkpointing", "max_tokens_per_micro_step", "precision", "compile", "packing", "batch_size",
    "max_length", "lora_rank", "lora_base_bits",
)  # fmt: skip


# Where


@dataclass(frozen=True)
class Options:
    """What `inv plan` may be told of a place that is not this machine. Empty or 0: as it is here."""

    gpu: str = ""
    gpus: int = 0
    shape: str = ""
    tokens_per_row: int = 0
    rows: int = 0
    host_gib: float = 0.0
    gpu_gib: float = 0.0

    @classmethod
    def of(cls, gpu: str = "", shape: str = "", **numbers: str) -> Options:
        """Return the options as they were typed. Raises UserError with a line for each that is no number."""
        found: dict[str, Any] = {}
        problems = []
        for name, text in numbers.items():
            kind, example = (float, {"host_gib": "256", "gpu_gib": "24"}[name]) if name.endswith("gib") else (int, "4")
            try:
                found[name] = kind(text or 0)
            except ValueError:
                found[name] = -1
            if not 0 <= found[name] < math.inf or (text and not found[name]):
                option = f"--{name.replace('_', '-')}"
                problems.append(wrong(option, text, "is not a number above 0", f"write it as in {option}={example}"))
        if problems:
            raise UserError("\n".join(problems))
        return cls(gpu=gpu, shape=shape, **found)


HERE = Options()


def place(settings: Settings, here: list[gpus.Gpu], options: Options = HERE) -> Place:
    """Return the place for a plan: the GPUs `here`, or as the options say. Raises UserError."""
    if options.gpu or options.gpu_gib or not here:
        card, notes = imagined(options)
        free_gib, fused = card.memory_gib, True
    else:
        card, notes = slowest(here)
        free_gib = min(gpu.total_gib - gpu.used_gib for gpu in here)
        # An image with a GPU has Liger's kernels; the host of a container needs none of the training packages.
        fused = settings.launcher == "compose" or importlib.util.find_spec("liger_kernel") is not None
        notes += [] if fused else ["liger-kernel is not installed here: with it activations take a third less"]
    if not card.has_bf16:
        fused = False  # Triton's kernels are for cards with bf16
        notes.append(f"{card.name} has no bf16: PRECISION=auto is fp16, with dynamic loss scaling")
    notes += [f"{card.name}: {card.note}"] if card.note else []
    shape = shapes.read(Path(options.shape)) if options.shape else shapes.need(settings)
    rows = workload.rows_of(settings, options.tokens_per_row, options.rows)
    host_gib = options.host_gib or machine.available_bytes() / GIB
    return Place(shape, card, rows, free_gib, host_gib, fused, tuple(notes))


def imagined(options: Options) -> tuple[Card, list[str]]:
    """Return the card of the options, which need not be here, and notes. Raises UserError for a name without memory."""
    gib = options.gpu_gib
    if not gib:
        card = cards.need(options.gpu or STAND_IN)
        unasked = f"no NVIDIA GPU is visible here: planned for {card.name} (`inv plan --gpu NAME`)"
        return card, [] if options.gpu else [unasked]
    notes = []
    found = cards.find(options.gpu, gib) if options.gpu else None
    card = found or cards.need(STAND_IN)
    if found is None:
        unknown = f"{options.gpu} is not in the plan's table: times are those of {card.name}"
        notes.append(unknown if options.gpu else f"times are those of {card.name} (`--gpu NAME` plans for another)")
        card = replace(card, name=options.gpu or f"GPU of {gib:g} GiB")
    return replace(card, memory_gib=gib - DRIVER_GIB), notes


def slowest(here: list[gpus.Gpu]) -> tuple[Card, list[str]]:
    """Return the slowest of the GPUs that are here, with the least memory of them, and notes.

    All ranks take the same share of a step, so the slowest GPU tells how long it takes.
    """
    kinds, notes = [], []
    for gpu in here:
        card = cards.find(gpu.name, gpu.total_gib)
        if card is None:
            card = cards.need(STAND_IN)
            notes.append(f"{gpu.name} is not in the plan's table: times are those of {card.name}")
        name = gpu.name.removeprefix("NVIDIA ")
        kinds.append(replace(card.part(gpu.share, gpu.total_gib) if gpu.share < 1 else card, name=name))
    found = min(kinds, key=lambda card: card.matrix_tflops)
    names = list(dict.fromkeys(card.name for card in kinds))
    if len(names) > 1:
        notes.insert(0, f"planned for {found.name}, the slowest of {', '.join(names)}")
    has_bf16 = all(gpu.has_bf16 for gpu in here)
    least = min(gpu.total_gib for gpu in here)
    return replace(found, memory_gib=least, has_bf16=has_bf16), list(dict.fromkeys(notes))


# What


def decided(settings: Settings, place: Place) -> Settings:
    """Return the settings with numbers for budget and recomputation where they say auto.

    The budget is the largest that fits, no larger than a step needs. Activations are recomputed where too few tokens
    fit without.
    """
    needed = workload.needed(settings, place.rows)
    cap = max(settings.max_length, min(LARGEST_BUDGET, -(-needed // 256) * 256))
    own = settings.max_tokens_per_micro_step
    usual = workload.work(settings, place.rows, own or cap).largest
    enough = usual if own else max(settings.max_length, min(usual, ENOUGH_TOKENS))
    if not settings.packing:
        cap = enough = needed
    wanted = settings.gradient_checkpointing
    fitting = 0
    for recompute in (False, True) if wanted is None else (wanted,):
        settings = settings.model_copy(update={"gradient_checkpointing": recompute})
        job = Job.of(settings, place.shape, place.card, place.fused)
        fitting = tokens_that_fit(job, place.limit_bytes, place.rows.target_share, cap)
        if fitting >= enough:
            break
    return settings.planned(max(settings.max_length, fitting), recompute=False)


def nearest(settings: Settings) -> Iterator[dict[str, Any]]:
    """Yield changes of settings that need less memory, those that change least first; None is auto."""
    auto: dict[str, Any] = {"max_tokens_per_micro_step": None, "gradient_checkpointing": None}
    if settings.packing:
        yield {"max_tokens_per_micro_step": None}
    yield {"gradient_checkpointing": True}
    if settings.packing:
        yield {"gradient_checkpointing": True, "max_tokens_per_micro_step": None}
    else:
        yield {"batch_size": 1, "global_batch_size": settings.sequences_per_step, "gradient_accumulation_steps": 1}
    in_four_bits = {"lora_base_bits": 4, "ds_config": "zero2"} | auto
    for name in ("zero3", *OFFLOADING) if settings.lora_base_bits == 16 else ():  # what is quantised cannot be sharded
        if name == OFFLOADING[0] and settings.lora_rank:  # sooner unpacked than fetched from the machine's memory
            yield in_four_bits
        if name != settings.ds_config:
            yield {"ds_config": name} | auto
    if not settings.lora_rank:
        for name in ("zero2", "zero3"):  # the frozen weights whole on every GPU where they fit: nothing is gathered
            yield {"lora_rank": LORA_RANK, "ds_config": name} | auto
        yield {"lora_rank": LORA_RANK} | in_four_bits
    if not settings.packing:
        yield {"packing": True} | auto
    length = settings.max_length // 2
    while length >= 128:
        yield {"max_length": length} | auto
        length //= 2


def shown(value: object) -> object:
    """Return a setting's value as a user writes it."""
    return int(value) if isinstance(value, bool) else value


def in_words(changes: dict[str, Any]) -> str:
    """Return settings as NAME=value; those that auto finds by itself are left out behind another."""
    planned = {"max_tokens_per_micro_step", "gradient_checkpointing"}
    named = {name: value for name, value in changes.items() if name not in planned} or changes
    return " ".join(f"{name.upper()}={shown(value)}" for name, value in named.items())


def larger(settings: Settings, place: Place) -> list[str]:
    """Return what would do with more than is here: a number of GPUs, or so much of the machine's memory."""
    auto = {"max_tokens_per_micro_step": None, "gradient_checkpointing": None, "lora_base_bits": 16}
    unpacked = " LORA_BASE_BITS=16" if settings.lora_base_bits == 4 else ""  # what is sharded is not quantised
    ways = []
    for number in MANY_GPUS:
        machines = {"nodes": 1, "gpus_per_node": number, "global_batch_size": max(number, settings.sequences_per_step)}
        more = settings.model_copy(update=auto | machines | {"ds_config": "zero3"})
        if number > settings.world_size and (found := Plan.of(more, place)).fits_gpu:
            memory = "" if found.fits else f" and {found.host_gib:.0f} GiB of memory"
            ways.append(f"DS_CONFIG=zero3{unpacked} on {number} GPUs{memory}")
            break
    for name in OFFLOADING:
        offloaded = Plan.of(settings.model_copy(update=auto | {"ds_config": name}), place)
        if offloaded.fits_gpu:
            ways.append(f"DS_CONFIG={name}{unpacked} in {offloaded.host_gib:.0f} GiB of memory")
            break
    return ways


def variants(chosen: Plan) -> Iterator[tuple[str, Plan]]:
    """Yield names and plans of other ways to train: ZeRO's stages, recomputation, LoRA, each at its best."""
    for name in dict.fromkeys([*DS_CONFIGS, chosen.settings.ds_config]):
        for recompute in (False, True):
            yield name, varied(chosen, ds_config=name, gradient_checkpointing=recompute, lora_rank=0, lora_base_bits=16)
    settings = chosen.settings
    rank = settings.lora_rank or LORA_RANK
    own = [(settings.ds_config, settings.lora_base_bits)] if settings.lora_rank else []
    for name, bits in dict.fromkeys([("zero2", 16), ("zero3", 16), ("zero2", 4), *own]):
        label = f"{name}, {'QLoRA' if bits == 4 else 'LoRA'} {rank}"
        for recompute in (False, True):
            changes = {"ds_config": name, "gradient_checkpointing": recompute, "lora_base_bits": bits}
            yield label, varied(chosen, lora_rank=rank, **changes)


def varied(chosen: Plan, **changes: Any) -> Plan:
    """Return a plan for the table: with other settings than those chosen, the budget left to it; or the chosen one."""
    settings = chosen.settings
    if all(getattr(settings, name) == value for name, value in changes.items()):
        return chosen
    return Plan.of(settings.model_copy(update=changes | {"max_tokens_per_micro_step": None}), chosen.place)


# The task, and in front of a run


def plan(settings: Settings, options: Options) -> Plan:
    """Return the plan of settings at the place that the options tell. Raises UserError."""
    if options.gpus:
        settings = settings.model_copy(update={"nodes": 1, "gpus_per_node": options.gpus})
    there = place(settings, gpus.visible()[: settings.world_size], options)
    return Plan.of(settings.resolved("cuda", "local", there.card.has_bf16), there)


def rule(settings: Settings, here: list[gpus.Gpu]) -> tuple[Settings, Plan | None]:
    """Return the settings of a run on GPUs with the plan's numbers, and the plan; None of an unknown model.

    Raises SettingsError for settings that cannot fit, unless PLAN=warn.
    """
    if settings.device != "cuda":
        return settings, None
    if shapes.find(settings) is None:
        return settings.planned(settings.micro_step_tokens, recompute=False), None
    plan = Plan.of(settings, place(settings, here))
    problem = plan.problem()
    if problem and settings.plan == "refuse":
        raise SettingsError([problem])
    return plan.settings, plan


def freeze(plan: Plan | None, run: Run) -> None:
    """Write the plan beside a run's frozen settings; an older one goes where there is none now."""
    if plan:
        files.write_json(run.plan, plan.as_json())
    else:
        run.plan.unlink(missing_ok=True)
