"""Whether several hosts are faster than one, and from which step size on: each step crosses the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from sft.errors import SettingsError
from sft.host.plan.alternatives import LORA_RANK, changed
from sft.host.plan.plan import Plan
from sft.host.plan.wire import Wire
from sft.settings.stages import Resolved

PAYS = 1.1  # times as fast as one host


@dataclass(frozen=True)
class Compared:
    """A step of some sequences on all hosts, and on one of them."""

    all_hosts: Plan
    one_host: Plan

    @property
    def times(self) -> float:
        """How many times as fast all hosts are."""
        return self.all_hosts.timing.tokens_per_second / self.one_host.timing.tokens_per_second

    @property
    def pays(self) -> bool:
        return self.all_hosts.fits and (self.times >= PAYS or not self.one_host.fits)


def compared(plan: Plan, wire: Wire, sequences: int) -> Compared | None:
    """Return the comparison for a step of so many sequences; None if settings forbid it."""
    try:
        here = Resolved.of(
            plan.resolved,
            nodes=1,
            gpus_per_node=plan.settings.world_size // wire.hosts,
            global_batch_size=sequences,
            gradient_accumulation_steps=1,
        )
        one = Plan.of(here, replace(plan.conditions, wire=None, hpz=0))
    except SettingsError:
        return None
    there = changed(plan, {"global_batch_size": sequences, "gradient_accumulation_steps": 1})
    return Compared(there, one) if there else None


def pays_from(plan: Plan, wire: Wire) -> Compared | None:
    """Return the smallest step with which the hosts pay, by doubling the plan's; None if none does."""
    sequences = plan.settings.sequences_per_step
    while sequences <= plan.conditions.rows.rows:
        found = compared(plan, wire, sequences)
        if found and found.pays:
            return found
        sequences *= 2
    return None


def lines(plan: Plan) -> Iterator[str]:
    """Yield the lines about the hosts; none for one host."""
    wire = plan.conditions.wire
    now = compared(plan, wire, plan.settings.sequences_per_step) if wire else None
    if wire is None or now is None:
        return
    one = speed(now.one_host) if now.one_host.fits else "does not fit"
    yield f"one host: {one} with this step; {wire.hosts} hosts: {speed(plan)}"
    if not now.pays:
        yield from advice(plan, wire)


def advice(plan: Plan, wire: Wire) -> Iterator[str]:
    """Yield what makes several hosts pay: larger steps, or an adapter, which sends little."""
    found = pays_from(plan, wire)
    if found is None:
        now = compared(plan, wire, plan.settings.sequences_per_step)
        than = "faster" if now and now.times < 1 else "as fast"
        yield f"no step size of these rows makes up for the network: one host is {than}"
    else:
        size = found.all_hosts.settings.sequences_per_step
        tokens = found.all_hosts.work.tokens_per_step * found.all_hosts.settings.world_size
        faster = f"{speed(found.all_hosts)}, one host {speed(found.one_host)}"
        yield f"they pay from GLOBAL_BATCH_SIZE={size} on ({tokens:,.0f} tokens a step): {faster}"
    if not plan.settings.lora_rank:
        adapter = changed(plan, {"lora_rank": LORA_RANK, "ds_config": "zero2", "max_tokens_per_micro_step": None})
        if adapter and adapter.fits:
            sent = f"{adapter.timing.wire_bytes / 1e9:.2f} GB a step"
            alone = compared(adapter, wire, adapter.settings.sequences_per_step)
            one = f", one host {speed(alone.one_host)}" if alone else ""
            yield f"LORA_RANK={LORA_RANK} DS_CONFIG=zero2 sends {sent}: {speed(adapter)}{one}"


def speed(plan: Plan) -> str:
    """Return a plan's speed in words."""
    return f"{plan.timing.tokens_per_second:,.0f} tokens/s"


def summary(plan: Plan) -> dict[str, object]:
    """Return the comparison for `make plan JSON=1`; empty if there is one host."""
    wire = plan.conditions.wire
    now = compared(plan, wire, plan.settings.sequences_per_step) if wire else None
    if wire is None or now is None:
        return {}
    found = pays_from(plan, wire)
    return {
        "hosts": wire.hosts,
        "network": wire.name,
        "network_gb_s": round(wire.gb_s, 3),
        "wire_gb_per_step": round(plan.timing.wire_bytes / 1e9, 3),
        "one_host_tokens_per_second": round(now.one_host.timing.tokens_per_second),
        "pays": now.pays,
        "pays_from_global_batch_size": found.all_hosts.settings.sequences_per_step if found else None,
    }
