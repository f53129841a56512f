"""The plan: does it fit, how long does it take, and what would be better. Computed before anything starts.

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

from sft import resources
from sft.errors import SettingsError, UserError, wrong
from sft.host import gpus
from sft.host.plan import cards, shapes, workload
from sft.host.plan.cards import Card
from sft.host.plan.estimate import (
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
from sft.host.plan.shapes import Shape
from sft.host.plan.workload import Rows, Work
from sft.run import files
from sft.run.directory import Run
from sft.settings.fields import DS_CONFIGS, Settings

MARGIN = 0.04  # of a card's memory that no plan uses: the plan's own error, and what the allocator cannot fill
LARGEST_BUDGET = 32768  # tokens; larger micro-steps are hardly faster
STAND_IN = "RTX 4090"  # the card that is planned for where none is here, and whose speed unknown ones get
OFFLOADING = ("zero3_offload", "zero3_offload_all")  # DS_CONFIGS that keep more and more in the machine's memory
WORTH_SAYING = 1.2  # times as fast as what was set
WORTH_GROWING, WORTH_DOUBLING = 1.5, 1.25  # times as fast with a larger batch, in all and with each doubling
LORA_RANK = 16  # of the adapters that the table shows
DISPLAY_GIB = 2.0  # of a GPU's memory that a desktop may have; more is another program's
DRIVER_GIB = 0.35  # that nvidia-smi counts and CUDA does not give: 24.0 and 23.65 on an RTX 4090
MANY_GPUS = (2, 4, 8, 16, 32, 64)  # numbers that are tried where a model does not fit


@dataclass(frozen=True)
class Place:
    """Where and with what a run is to be: all that its settings do not say."""

    model: str
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

    asked: Settings  # with auto where the user left it
    settings: Settings
    place: Place
    job: Job
    memory: Memory
    work: Work
    timing: Timing

    @classmethod
    def of(cls, asked: Settings, place: Place) -> Plan:
        """Plan settings whose precision is known."""
        settings = decided(asked, place)
        job = Job.of(settings, place.shape, place.card, place.fused)
        work = workload.work(settings, place.rows, settings.micro_step_tokens)
        needs = memory(job, work.largest, place.rows.target_share, work.micro_steps)
        return cls(asked, settings, place, job, needs, work, timing(job, work, place.rows))

    def changed(self, changes: dict[str, Any]) -> Plan | None:
        """Return the plan of what was asked with other settings; None if DeepSpeed, or a file for it, forbids them."""
        try:
            return Plan.of(self.asked.model_copy(update=changes), self.place)
        except SettingsError:
            return None

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
        """Return the line that says what does not fit and what would, or nothing.

        It names a setting that the user has set and that has to change; otherwise it begins with what is the matter.
        """
        settings, place = self.settings, self.place
        evaluating = evaluation_bytes(self.job, self.work.largest, place.rows.target_share)
        if self.fits and settings.evaluate and evaluating > place.limit_bytes:
            what = f"evaluation needs {evaluating / GIB:.1f} GiB for the model whole on each GPU, {self.usable()}"
            return f"does not fit: {what}; use EVALUATE=0 and evaluate final/ on a larger card"
        if self.fits:
            return ""
        if self.fits_gpu and not self.host.offloaded:
            what, remedy = f"its export {self.host_problem()}", "use a smaller model, or end what fills the memory"
            return f"does not fit: {place.model}: {what}; {remedy}"
        needs = f"{place.model} needs {self.memory.peak / GIB:.1f} GiB of each GPU, {self.usable()}"
        what = self.host_problem() if self.fits_gpu else needs
        taken_gib = place.card.memory_gib - place.free_gib
        if taken_gib > DISPLAY_GIB and Plan.of(self.asked, replace(place, free_gib=place.card.memory_gib)).fits:
            remedy = f"end what has {taken_gib:.1f} GiB of it (`nvidia-smi`; `make monitor` shows a run)"
            return f"does not fit: {what}; {remedy}"
        culprit, remedy = self.remedy()
        if culprit and getattr(settings, culprit) != type(settings).model_fields[culprit].default:
            return wrong(culprit.upper(), shown(getattr(settings, culprit)), f"does not fit: {what}", remedy)
        return f"does not fit: {what}; {remedy}"

    def usable(self) -> str:
        """Return how much of a GPU's memory a run may use, in words."""
        return f"{self.place.limit_bytes / GIB:.1f} GiB can be used on {self.place.card.name}"

    def host_problem(self) -> str:
        """Return how much of the machine's memory is needed, and how much there is."""
        return f"needs {self.host_gib:.1f} GiB of the machine's memory, {self.place.host_gib:.1f} GiB can be used"

    def remedy(self) -> tuple[str, str]:
        """Return the setting to blame where it does not fit, and what to do: what changes least comes first.

        That is a cheaper way to train the same. Keeping the optimizer or the weights in the machine's memory costs so
        much time that an adapter and more GPUs are named beside it. Rows are cut only if nothing else fits.
        """
        same = first(self, cheaper(self.settings))
        if same and same.changes.get("ds_config") not in OFFLOADING:
            return next(iter(same.changes)), f"use {same.words}"
        adapter = first(self, adapters(self.settings))
        found = [way for way in (same, adapter) if way]
        if not found and (shorter := first(self, cutting(self.settings))):
            found = [shorter]
        words = [way.words for way in found]
        if more := larger(self.settings, self.place, offload=same is None):
            words.append(("all weights with " if adapter and not same else "") + " or ".join(more))
        if not found:
            words.append("a smaller model")
        return next(iter(found[0].changes)) if found else "", f"use {', or '.join(words)}"

    def faster(self) -> str:
        """Return the line that tells a DS_CONFIG, or a setting left to auto, that is clearly faster, or nothing."""
        if not self.fits:
            return ""
        settings = self.settings
        own = {name: getattr(self.asked, name) for name in AUTO if getattr(self.asked, name) is not None}
        same = Plan.of(settings.model_copy(update=AUTO), self.place)
        others = [self.changed(AUTO | {"ds_config": name}) for name in DS_CONFIGS]  # None: ZeRO-3 of 4-bit weights
        best = min((same, *(other for other in others if other and other.fits)), key=lambda other: other.timing.total_s)
        if same.timing.total_s < WORTH_SAYING * best.timing.total_s:
            best = same  # the fewest changes that do it
        times = self.timing.total_s / best.timing.total_s
        if times < WORTH_SAYING:
            return ""
        new = [f"DS_CONFIG={best.settings.ds_config}"] * (best.settings.ds_config != settings.ds_config)
        new += [f"{name.upper()}=auto" for name, value in own.items() if getattr(best.settings, name) != value]
        why = ""
        if settings.lora_rank and self.job.stage == 3 and best.job.stage < 3:
            why = ": it gathers no frozen weights, which fit each GPU whole"
        return f"{' '.join(new)} is {times:.1f} times as fast{why}"

    def larger_batch(self) -> Plan | None:
        """Return the plan with a larger GLOBAL_BATCH_SIZE that is much faster, or None.

        What a step costs whatever it holds (Python in each layer, the link, the optimizer) is shared by more tokens
        then. It is doubled as long as each doubling is worth it.
        """
        found = self
        while self.fits:
            sequences = 2 * found.settings.sequences_per_step
            changes = {"global_batch_size": sequences, "gradient_accumulation_steps": 1}
            more = self.changed(changes) if sequences <= self.place.rows.rows else None
            if more is None or not more.fits:
                break
            if more.timing.tokens_per_second < WORTH_DOUBLING * found.timing.tokens_per_second:
                break
            found = more
        much = found.timing.tokens_per_second >= WORTH_GROWING * self.timing.tokens_per_second
        return found if much else None

    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON data, in GiB and seconds."""
        moments = {
            moment: {part: round(size / GIB, 3) for part, size in parts.items()}
            for moment, parts in self.memory.moments.items()
        }
        return {
            "model": self.place.model,
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
                problems.append(wrong(name.upper(), text, "is not a number above 0", f"use one such as {example}"))
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
        if settings.precision != "fp32":
            notes.append(f"{card.name} has no bf16: PRECISION=auto is fp16, with dynamic loss scaling")
    notes += [f"{card.name}: {card.note}"] if card.note else []
    shape = shapes.read(Path(options.shape)) if options.shape else shapes.need(settings)
    model = shapes.name_of(Path(options.shape)) if options.shape else settings.model_name
    rows = workload.rows_of(settings, options.tokens_per_row, options.rows)
    host_gib = options.host_gib or resources.available_bytes() / GIB
    return Place(model, shape, card, rows, free_gib, host_gib, fused, tuple(notes))


def imagined(options: Options) -> tuple[Card, list[str]]:
    """Return the card of the options, which need not be here, and notes. Raises UserError for a name without memory."""
    gib = options.gpu_gib
    if not gib:
        card = cards.need(options.gpu or STAND_IN)
        unasked = f"no NVIDIA GPU is visible here: planned for {card.name} (`make plan GPU=NAME`)"
        return card, [] if options.gpu else [unasked]
    notes = []
    found = cards.find(options.gpu, gib) if options.gpu else None
    card = found or cards.need(STAND_IN)
    if found is None:
        unknown = f"{options.gpu} is not in the plan's table: times are those of {card.name}"
        notes.append(
            unknown if options.gpu else f"times are those of {card.name} (`make plan GPU=NAME` plans for another)"
        )
        card = replace(card, name=options.gpu or f"GPU of {gib:g} GiB")
    return replace(card, memory_gib=max(0.0, gib - DRIVER_GIB)), notes


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

    The budget is the largest that fits, no larger than a step needs: fewer and larger micro-steps are never slower.
    Activations are recomputed where that is faster, of what fits: it makes room for larger micro-steps. Where nothing
    fits, it is what needs least.
    """
    needed = workload.needed(settings, place.rows)
    cap = max(settings.max_length, min(LARGEST_BUDGET, -(-needed // 256) * 256)) if settings.packing else needed
    wanted, share = settings.gradient_checkpointing, place.rows.target_share
    ways = []
    for recompute in (False, True) if wanted is None else (wanted,):
        tried = settings.model_copy(update={"gradient_checkpointing": recompute})
        job = Job.of(tried, place.shape, place.card, place.fused)
        fitting = tokens_that_fit(job, place.limit_bytes, share, cap)
        tried = tried.planned(max(settings.max_length, fitting), recompute)
        work = workload.work(tried, place.rows, tried.micro_step_tokens)
        peak = memory(job, work.largest, share, work.micro_steps).peak
        fits = peak <= place.limit_bytes
        ways.append((not fits, timing(job, work, place.rows).total_s if fits else peak, tried))
    return min(ways, key=lambda way: way[:2])[2]


# What else would do

Changes = dict[str, Any]
AUTO: Changes = {"max_tokens_per_micro_step": None, "gradient_checkpointing": None}


@dataclass(frozen=True)
class Way:
    """Changes of settings that fit, and how a user types them."""

    changes: Changes
    words: str


def first(plan: Plan, ways: Iterator[Changes]) -> Way | None:
    """Return the first changes with which a plan fits. A budget or recomputation of the user's own stays, if it can."""
    for changes in ways:
        found = plan.changed(changes)
        if found and found.fits:
            name = next(iter(changes))
            new = {key: getattr(found.settings, key) for key in changes}
            new = {key: value for key, value in new.items() if key == name or value != getattr(plan.settings, key)}
            return Way(changes, in_words(new))
    return None


def cheaper(settings: Settings) -> Iterator[Changes]:
    """Yield changes with which the same is trained in less memory, those that cost least time first; None is auto."""
    if settings.packing:
        yield {"max_tokens_per_micro_step": None}
    yield {"gradient_checkpointing": True}
    if settings.packing:
        yield {"gradient_checkpointing": True, "max_tokens_per_micro_step": None}
    else:
        yield {"batch_size": 1, "global_batch_size": settings.sequences_per_step, "gradient_accumulation_steps": 1}
        yield {"packing": True} | AUTO
    for name in ("zero3", *OFFLOADING) if settings.lora_base_bits == 16 else ():  # what is quantised cannot be sharded
        if name == OFFLOADING[0] and settings.lora_rank:  # sooner unpacked than fetched from the machine's memory
            yield {"lora_base_bits": 4, "ds_config": "zero2"} | AUTO
        if name != settings.ds_config:
            yield {"ds_config": name} | AUTO


def adapters(settings: Settings) -> Iterator[Changes]:
    """Yield changes with which an adapter is trained in place of all weights."""
    if not settings.lora_rank:
        for name in ("zero2", "zero3"):  # the frozen weights whole on every GPU where they fit: nothing is gathered
            yield {"lora_rank": LORA_RANK, "ds_config": name} | AUTO
        yield {"lora_rank": LORA_RANK, "lora_base_bits": 4, "ds_config": "zero2"} | AUTO


def cutting(settings: Settings) -> Iterator[Changes]:
    """Yield changes that cut long rows."""
    length = settings.max_length // 2
    while length >= 128:
        yield {"max_length": length} | AUTO
        length //= 2


def shown(value: object) -> object:
    """Return a setting's value as a user writes it."""
    return int(value) if isinstance(value, bool) else value


def in_words(changes: dict[str, Any]) -> str:
    """Return settings as NAME=value; those that auto finds by itself are left out behind another."""
    planned = {"max_tokens_per_micro_step", "gradient_checkpointing"}
    named = {name: value for name, value in changes.items() if name not in planned} or changes
    return " ".join(f"{name.upper()}={shown(value)}" for name, value in named.items())


def larger(settings: Settings, place: Place, offload: bool) -> list[str]:
    """Return what would do with more than is here: a number of GPUs, or (`offload`) more of the machine's memory."""
    auto = AUTO | {"lora_base_bits": 16}
    unpacked = " LORA_BASE_BITS=16" if settings.lora_base_bits == 4 else ""  # what is sharded is not quantised
    ways = []
    for number in MANY_GPUS:
        machines = {"nodes": 1, "gpus_per_node": number, "global_batch_size": max(number, settings.sequences_per_step)}
        more = settings.model_copy(update=auto | machines | {"ds_config": "zero3"})
        if number > settings.world_size and (found := Plan.of(more, place)).fits_gpu:
            memory = "" if found.fits else f" and {found.host_gib:.0f} GiB of memory"
            ways.append(f"DS_CONFIG=zero3{unpacked} on {number} GPUs{memory}")
            break
    for name in OFFLOADING if offload else ():
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
    if settings.device == "cpu" and not (options.gpu or options.gpu_gib):
        unplanned = f"DEVICE=cpu: a run trains on the CPU, which needs no plan; this is what {there.card.name} would do"
        there = replace(there, notes=(unplanned,))
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
