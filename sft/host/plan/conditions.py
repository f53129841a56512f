"""What a plan is made for, besides the settings: the model, the cards and their memory, the rows.

They are those of this machine, or those that the options of `make plan` name.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from sft import resources
from sft.errors import UserError, wrong
from sft.host import gpus
from sft.host.gpus import Gpu
from sft.host.plan import cards, lookup, measured, shapes, wire, workload
from sft.host.plan.cards import Card
from sft.host.plan.job import GIB
from sft.host.plan.shapes import Shape
from sft.host.plan.wire import Wire
from sft.host.plan.workload import Rows
from sft.settings.fields import Settings

MARGIN = 0.04  # of a card's memory that no plan uses: the plan's own error, and what the allocator cannot fill
STAND_IN = "RTX 4090"  # planned for if there is no GPU here; its speed is taken for a card that is not in the table
DRIVER_GIB = 0.35  # that nvidia-smi counts and CUDA does not offer: 24.0 and 23.65 on an RTX 4090

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Options:
    """What `make plan` assumes instead of this machine, model and data. Empty or 0: nothing."""

    gpu: str = ""
    gpus: int = 0
    shape: str = ""
    tokens_per_row: int = 0
    rows: int = 0
    host_gib: float = 0.0
    gpu_gib: float = 0.0
    hosts: int = 0
    link: float = 0.0  # Gbit/s
    measured: str = ""  # the name of a run whose speed counts

    @classmethod
    def of(
        cls,
        gpu: str = "",
        shape: str = "",
        gpus: str = "",
        tokens_per_row: str = "",
        rows: str = "",
        host_gib: str = "",
        gpu_gib: str = "",
        hosts: str = "",
        link: str = "",
        measured: str = "",
    ) -> Options:
        """Return the options as they were typed. Raises UserError with a line for each that is not a number above 0."""
        problems: list[str] = []
        options = cls(
            gpu=gpu,
            shape=shape,
            gpus=number(int, "GPUS", gpus, "4", problems),
            tokens_per_row=number(int, "TOKENS_PER_ROW", tokens_per_row, "4", problems),
            rows=number(int, "ROWS", rows, "4", problems),
            host_gib=number(float, "HOST_GIB", host_gib, "256", problems),
            gpu_gib=number(float, "GPU_GIB", gpu_gib, "24", problems),
            hosts=wire.number_of_hosts(hosts, problems),
            link=wire.gbit_s(link, problems),
            measured=measured,
        )
        if problems:
            raise UserError("\n".join(problems))
        return options


HERE = Options()


def number(kind: type[Number], name: str, text: str, example: str, problems: list[str]) -> Number:
    """Return an option's number, 0 if it was not given; add a line to `problems` if it is not one above 0."""
    try:
        found = kind(text or 0)
    except ValueError:
        found = kind(-1)
    if not 0 <= found < math.inf or (text and not found):
        problems.append(wrong(name, text, "is not a number above 0", f"use one such as {example}"))
    return found


@dataclass(frozen=True)
class Conditions:
    """The model, the cards and their memory, and the rows that a plan is made for."""

    model: str
    shape: Shape
    card: Card
    rows: Rows
    free_gib: float  # of a GPU's memory that nobody else uses
    host_gib: float  # of the machine's memory that is available
    fused: bool  # Liger's kernels are installed
    notes: tuple[str, ...] = ()
    disk_gb_s: float = 0.0  # at which RUNS_PATH is written; 0: not measured
    disk_measured_on: str = ""
    wire: Wire | None = None  # None: one host
    hpz: int = 0  # ZeRO++'s hpZ: GPUs of a host that keep a copy of the weights together; 0: as DS_CONFIG says
    in_turns: bool = False  # computing and communicating, as on CPUs
    slower: float = 1.0  # times as long as the card's figures say, as an earlier run has measured

    @property
    def limit_bytes(self) -> float:
        """Bytes of a GPU's memory that a plan may use."""
        return self.free_gib * GIB * (1 - MARGIN)


def conditions(settings: Settings, here: list[Gpu], options: Options = HERE) -> Conditions:
    """Return the conditions on the GPUs that are `here`, or as the options say. Raises UserError."""
    speeds, unused = measured.kept(settings, gpus.visible())
    is_imagined = bool(options.gpu or options.gpu_gib or not here)
    card, notes = imagined(options) if is_imagined else slowest(here)
    if settings.launcher == "compose" and settings.nodes > 1 and card.through_host:
        notes.append(f"cards of different containers cannot copy over {card.link}: LAUNCHER=local lets them")
        card = card.between_containers()
    if is_imagined:
        free_gib, fused = card.memory_gib, True
    else:
        if all(gpu.uuid for gpu in here):  # those of a cluster's nodes have none
            launcher = wire.launcher_of(settings)
            inside = "local" if launcher in wire.USUAL else launcher  # of a host
            card = speeds.applied(card, inside) if speeds else card
            notes += [unused] if unused else []
        free_gib = min(gpu.total_gib - gpu.used_gib for gpu in here)
        # The image for GPUs has Liger's kernels; the host of the containers needs none of the training packages.
        fused = settings.launcher == "compose" or importlib.util.find_spec("liger_kernel") is not None
        notes += [] if fused else ["liger-kernel is not installed here: with it activations take a third less"]
    if not card.has_bf16:
        fused = False  # Triton's kernels need bf16
        if settings.precision != "fp32":
            notes.append(f"{card.name} has no bf16: PRECISION=auto is fp16, with dynamic loss scaling")
    notes += [f"{card.name}: {card.note}"] if card.note else []
    shape = shape_in(options.shape) if options.shape else lookup.need(settings)
    if shape.doubt:
        notes.append(f"a guess: {shape.doubt}. The run tries its largest micro-step first")
    if settings.lora_rank and shape.expert_share and not settings.adapts_experts:
        share = f"{shape.expert_share:.0%} of the weights"
        notes.append(f"no adapter reaches the experts, {share}: LORA_TARGETS=all-linear,experts adds them")
    return Conditions(
        model=shapes.name_of(Path(options.shape)) if options.shape else settings.model_name,
        shape=shape,
        card=card,
        rows=workload.rows_of(settings, options.tokens_per_row, options.rows),
        free_gib=free_gib,
        host_gib=options.host_gib or resources.available_bytes() / GIB,
        fused=fused,
        notes=tuple(notes),
        disk_gb_s=speeds.disk_gb_s.get(str(settings.runs_path.absolute()), 0.0) if speeds else 0.0,
        disk_measured_on=speeds.day(str(settings.runs_path.absolute())) if speeds else "",
        wire=wire.between(settings, options.hosts, options.link, speeds),
    )


def imagined(options: Options) -> tuple[Card, list[str]]:
    """Return the card that the options name, which need not be here, and notes.

    Raises UserError for a name that is not in the table, unless the options say its memory.
    """
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


def slowest(here: list[Gpu]) -> tuple[Card, list[str]]:
    """Return the slowest of the GPUs that are here, with the least memory of them, and notes.

    All ranks take the same share of a step, so the slowest GPU decides how long it takes. A GPU that is not in the
    table gets the stand-in's speed.
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


def shape_in(file: str) -> shapes.Shape:
    """Return the shape in the file that SHAPE names. Raises UserError."""
    try:
        return shapes.read(Path(file))
    except UserError as error:
        raise UserError(f"SHAPE={error}") from None  # which begins with the file
