"""Other settings that would train the same, and whether they fit: each gets a plan of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypedDict

from sft.errors import SettingsError
from sft.host.plan.plan import Plan
from sft.settings.fields import DS_CONFIGS, Settings
from sft.settings.kinds import BaseBits, StateBits
from sft.settings.stages import Resolved

# DS_CONFIGs that keep the optimizer, or the weights too, in the machine's memory.
OFFLOADING = ("zero3_offload", "zero3_offload_all")
LORA_RANK = 16  # of the adapters that are suggested
GPU_NUMBERS = (2, 4, 8, 16, 32, 64)  # that are tried if a model does not fit
SHORTEST_ROWS = 128  # tokens: no shorter MAX_LENGTH is suggested


class Changes(TypedDict, total=False):
    """Settings that differ. The first one is named as the culprit if something does not fit."""

    max_tokens_per_micro_step: int | None
    gradient_checkpointing: bool | None
    packing: bool
    batch_size: int
    global_batch_size: int
    gradient_accumulation_steps: int
    max_length: int
    ds_config: str
    optimizer_bits: StateBits
    lora_rank: int
    lora_base_bits: BaseBits
    nodes: int
    gpus_per_node: int


AUTO: Changes = {"max_tokens_per_micro_step": None, "gradient_checkpointing": None}


@dataclass(frozen=True)
class Alternative:
    """Changes with which a plan fits, and how a user types them."""

    changes: Changes
    words: str

    @property
    def culprit(self) -> str:
        """The name of the setting to blame."""
        return next(iter(self.changes))


def changed(plan: Plan, changes: Changes) -> Plan | None:
    """Return the plan with some settings changed; None if DeepSpeed, or a file for it, forbids the changes."""
    try:
        return Plan.of(Resolved.of(plan.resolved, **{**changes}), plan.conditions)
    except SettingsError:
        return None


def first_that_fits(plan: Plan, candidates: Iterator[Changes]) -> Alternative | None:
    """Return the first changes with which a plan fits. A budget or recomputation that was set is kept if possible."""
    for changes in candidates:
        found = changed(plan, changes)
        if found and found.fits:
            culprit = next(iter(changes))
            new: dict[str, object] = {name: getattr(found.settings, name) for name in changes}
            named = {
                name: value for name, value in new.items() if name == culprit or value != getattr(plan.settings, name)
            }
            return Alternative(changes, in_words(named))
    return None


def cheaper(settings: Settings) -> Iterator[Changes]:
    """Yield changes that train the same in less memory, those that cost the least time first."""
    if settings.packing:
        yield {"max_tokens_per_micro_step": None}
    yield {"gradient_checkpointing": True}
    if settings.packing:
        yield {"gradient_checkpointing": True, "max_tokens_per_micro_step": None}
    else:
        yield {"batch_size": 1, "global_batch_size": settings.sequences_per_step, "gradient_accumulation_steps": 1}
        yield {"packing": True, **AUTO}
    if settings.lora_base_bits != 16:  # quantised weights cannot be sharded
        return
    for name in ("zero3", *OFFLOADING):
        if name == OFFLOADING[0] and settings.lora_rank:  # unpacking is faster than fetching from the machine's memory
            yield {"lora_base_bits": 4, "ds_config": "zero2", "optimizer_bits": 32, **AUTO}
        if name != settings.ds_config:
            yield {"ds_config": name, **states_under(name, settings.optimizer_bits), **AUTO}


def states_under(ds_config: str, bits: StateBits) -> Changes:
    """Return the states that a DS_CONFIG can have, if `bits` are asked for: offloaded ones have 32."""
    return {"optimizer_bits": 32 if ds_config in OFFLOADING else bits}


def states_in_16_bits(settings: Settings) -> Iterator[Changes]:
    """Yield changes that train all weights in half the memory, rounded to 16 bits after each step."""
    if settings.optimizer_bits == 32 and not settings.lora_rank:
        yield {"optimizer_bits": 16, "ds_config": "zero3", **AUTO}


def adapters(settings: Settings) -> Iterator[Changes]:
    """Yield changes that train an adapter instead of all weights."""
    if not settings.lora_rank:
        for name in ("zero2", "zero3"):  # with ZeRO-2 every GPU has the frozen weights whole, and gathers nothing
            yield {"lora_rank": LORA_RANK, "ds_config": name, **AUTO}
        yield {"lora_rank": LORA_RANK, "lora_base_bits": 4, "ds_config": "zero2", "optimizer_bits": 32, **AUTO}


def shorter_rows(settings: Settings) -> Iterator[Changes]:
    """Yield changes that cut long rows."""
    length = settings.max_length // 2
    while length >= SHORTEST_ROWS:
        yield {"max_length": length, **AUTO}
        length //= 2


def more_hardware(plan: Plan, offload: bool) -> list[str]:
    """Return hardware that could train all weights: a number of GPUs, or with `offload` more host memory."""
    settings, conditions = plan.settings, plan.conditions
    whole: Changes = {"lora_base_bits": 16, **AUTO}
    unpacked = " LORA_BASE_BITS=16" if settings.lora_base_bits == 4 else ""  # quantised weights cannot be sharded
    found = []
    for number in GPU_NUMBERS:
        sequences = max(number, settings.sequences_per_step)
        machine: Changes = {"nodes": 1, "gpus_per_node": number, "global_batch_size": sequences, "ds_config": "zero3"}
        more = Resolved.of(settings, **{**whole, **machine})
        if number > settings.world_size and (larger := Plan.of(more, conditions)).fits_gpu:
            memory = "" if larger.fits else f" and {larger.host_gib:.0f} GiB of memory"
            found.append(f"DS_CONFIG=zero3{unpacked} on {number} GPUs{memory}")
            break
    for name in OFFLOADING if offload else ():
        offloaded = Plan.of(Resolved.of(settings, **{**whole, "ds_config": name, "optimizer_bits": 32}), conditions)
        if offloaded.fits_gpu:
            states = " OPTIMIZER_BITS=32" if settings.optimizer_bits != 32 else ""
            found.append(f"DS_CONFIG={name}{unpacked}{states} in {offloaded.host_gib:.0f} GiB of memory")
            break
    return found


def variants(chosen: Plan) -> Iterator[tuple[str, Plan]]:
    """Yield names and plans of the ways to train: ZeRO's stages, recomputation, LoRA, each with its best budget."""
    settings = chosen.settings
    usual = [
        (name, variant(chosen, name, recompute))
        for name in dict.fromkeys([*DS_CONFIGS, settings.ds_config])
        for recompute in (False, True)
    ]
    yield from usual
    yield from inside_hosts(chosen)
    in_gpus = any(found.fits and name not in OFFLOADING for name, found in usual)
    if settings.precision == "bf16" and (settings.optimizer_bits == 16 or not in_gpus):
        own = [settings.ds_config] if settings.optimizer_bits == 16 else []
        for name in dict.fromkeys(["zero3", *own]):
            for recompute in (False, True):
                yield f"{name}, 16 bits", variant(chosen, name, recompute, states=16)
    rank = settings.lora_rank or LORA_RANK
    lora: list[tuple[str, BaseBits]] = [("zero2", 16), ("zero3", 16), ("zero2", 4)]
    if settings.lora_rank:
        lora.append((settings.ds_config, settings.lora_base_bits))
    for name, bits in dict.fromkeys(lora):
        for recompute in (False, True):
            states = settings.optimizer_bits if settings.lora_rank and bits == 16 else 32
            label = f"{name}, {'QLoRA' if bits == 4 else 'LoRA'} {rank}"
            yield label, variant(chosen, name, recompute, rank, bits, states)


def inside_hosts(chosen: Plan) -> Iterator[tuple[str, Plan]]:
    """Yield ZeRO-3 with ZeRO++'s hpZ where it helps: gathers for backward stay on each host, which has a copy."""
    wire = chosen.conditions.wire
    on_a_host = chosen.settings.world_size // wire.hosts if wire else 1
    if on_a_host < 2 or chosen.job.hpz:
        return
    kept_inside = replace(chosen, conditions=replace(chosen.conditions, hpz=on_a_host))
    for recompute in (False, True):
        without, found = variant(chosen, "zero3", recompute), variant(kept_inside, "zero3", recompute)
        if found is kept_inside:
            found = Plan.of(chosen.resolved, kept_inside.conditions)
        if found.fits and found.timing.total_s < without.timing.total_s:
            yield f"zero3, hpZ {on_a_host}", found


def variant(
    chosen: Plan, ds_config: str, recompute: bool, lora_rank: int = 0, bits: BaseBits = 16, states: StateBits = 32
) -> Plan:
    """Return the plan of other settings, with its best budget; the chosen plan itself if they are the same."""
    changes: Changes = {
        "ds_config": ds_config,
        "gradient_checkpointing": recompute,
        "optimizer_bits": states,
        "lora_rank": lora_rank,
        "lora_base_bits": bits,
    }
    if all(getattr(chosen.settings, name) == value for name, value in changes.items()):
        return chosen
    update = {**changes, "max_tokens_per_micro_step": None}
    return Plan.of(Resolved.of(chosen.settings, **{**update}), chosen.conditions)


def as_typed(value: object) -> object:
    """Return a setting's value as a user types it."""
    return int(value) if isinstance(value, bool) else value


def in_words(changes: dict[str, object]) -> str:
    """Return changes as NAME=value. What auto finds by itself is left out, unless nothing else changes."""
    named = {name: value for name, value in changes.items() if name not in AUTO} or changes
    return " ".join(f"{name.upper()}={as_typed(value)}" for name, value in named.items())
