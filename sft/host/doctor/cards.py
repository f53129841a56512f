"""Checks of the cards that a run would use, from what driver and kernel say: each aspect is one line for all cards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sft.host import gpus
from sft.host.check import Check
from sft.host.doctor.card_facts import CardFacts, MachineFacts, ProcessFacts
from sft.host.plan import cards as table

DISPLAY_GIB = 2.0  # of a card's memory that a desktop may use
FEW_LANES = 4  # at which reductions take several times as long
LOW_POWER = 0.6  # of the card's usual limit
HOT_C = 5  # degrees below the temperature at which a card slows itself down
# The bits of nvmlClocksEventReasons that are a fault, and what to do. Bit 4, the power limit, is usual at full load.
SLOWED = {
    64: ("it is too hot, and the hardware slows it down", "check its fans and the case's air flow"),
    128: ("the power supply slows it down", "use a stronger power supply, and a cable for each connector"),
    8: ("the hardware slows it down", "check its power cables and its cooling"),
    32: ("it is too hot, and the driver slows it down", "check its fans and the case's air flow"),
}
IOMMU_REMEDY = "boot with iommu=pt, or switch the IOMMU (VT-d, AMD-Vi) off in the BIOS"


def checks(facts: MachineFacts, indices: Sequence[int]) -> Iterator[Check]:
    """Yield the checks of the cards with these indices; none without cards."""
    cards = [card for card in facts.cards if card.index in indices]
    if not cards:
        return
    for check in (pcie, power, clocks, temperature, memory_errors, persistence, mig, processes, numa):
        yield check(cards)
    if len(cards) > 1:
        yield peers(facts, cards)
    yield iommu(facts, cards)


def label(cards: Sequence[CardFacts]) -> str:
    """Return cards in words: "card 0", "cards 0, 1"."""
    return f"card{'s' * (len(cards) > 1)} {', '.join(str(card.index) for card in cards)}"


def alike(cards: Sequence[CardFacts], say: Callable[[CardFacts], str]) -> str:
    """Return what is said of each card, once for those of which the same is said."""
    groups: dict[str, list[CardFacts]] = {}
    for card in cards:
        groups.setdefault(say(card), []).append(card)
    if len(groups) == 1:
        return next(iter(groups))
    return "; ".join(f"{label(group)}: {said}" for said, group in groups.items())


def lanes(card: CardFacts) -> int | None:
    """Return the PCIe lanes of a card itself; None for a card that the plan's table does not have."""
    found = table.find(card.name, card.total_gib)
    return None if found is None else 8 if " x8 " in f"{found.link} " else 16


def pcie(cards: list[CardFacts]) -> Check:
    """Check the PCIe link: lanes that are lost, a slot with few of them, and a slower generation under load."""

    def say(card: CardFacts) -> str:
        if card.pcie_width is None:
            return "not known"
        idle = card.pcie_generation != card.pcie_generation_max and not card.load_percent
        now = f", generation {card.pcie_generation} while idle" if idle else ""
        return f"generation {card.pcie_generation_max}, {card.pcie_width} lanes{now}"

    values = {
        f"card_{card.index}_{name}": value
        for card in cards
        for name in ("pcie_generation", "pcie_generation_max", "pcie_width", "pcie_width_max")
        if (value := getattr(card, name)) is not None
    }
    lost = [card for card in cards if card.pcie_width and card.pcie_width < (card.pcie_width_max or 0)]
    if lost:
        what = f"{label(lost)}: {lost[0].pcie_width} of {lost[0].pcie_width_max} lanes"
        return Check("PCIe", "warning", what, "reseat the card or its riser, or clean its contacts", values=values)
    few = [card for card in cards if card.pcie_width and card.pcie_width <= FEW_LANES < (lanes(card) or 0)]
    if few:
        what = f"{label(few)}: {few[0].pcie_width} lanes, the card has {lanes(few[0])}"
        return Check("PCIe", "warning", what, "use a slot with 8 or 16 lanes, or fewer cards", values=values)
    slow = [
        card for card in cards if card.load_percent and (card.pcie_generation or 9) < (card.pcie_generation_max or 0)
    ]
    if slow:
        what = f"{label(slow)}: generation {slow[0].pcie_generation} of {slow[0].pcie_generation_max} under load"
        return Check(
            "PCIe", "warning", what, "set the slot's speed in the BIOS; a riser may be too slow", values=values
        )
    return Check("PCIe", "ok", alike(cards, say), values=values)


def power(cards: list[CardFacts]) -> Check:
    """Check the power limits: a low one is a choice that makes a card slower."""

    def say(card: CardFacts) -> str:
        if card.power_limit_w is None:
            return "not known"
        usual = card.power_default_w
        lower = usual and round(card.power_limit_w) != round(usual)
        return f"limit {card.power_limit_w:.0f} W" + (f" (usually {usual:.0f} W)" if lower else "")

    values = {f"card_{card.index}_limit_w": card.power_limit_w for card in cards if card.power_limit_w is not None}
    low = [
        card
        for card in cards
        if card.power_limit_w and card.power_default_w and card.power_limit_w < LOW_POWER * card.power_default_w
    ]
    if low:
        remedy = f"sudo nvidia-smi -i {low[0].index} -pl {low[0].power_default_w:.0f}, if the power supply allows it"
        return Check(
            "power", "warning", alike(low, lambda card: f"{label([card])}: {say(card)}"), remedy, values=values
        )
    return Check("power", "ok", alike(cards, say), values=values)


def clocks(cards: list[CardFacts]) -> Check:
    """Check whether something slows the cards down right now."""
    values = {f"card_{card.index}_reasons": card.clock_reasons for card in cards if card.clock_reasons is not None}
    for bit, (what, remedy) in SLOWED.items():
        if slowed := [card for card in cards if (card.clock_reasons or 0) & bit]:
            return Check("clocks", "warning", f"{label(slowed)}: {what}", remedy, values=values)
    if not values:
        return Check("clocks", "ok", "not known")
    return Check("clocks", "ok", "nothing slows the cards down", values=values)


def temperature(cards: list[CardFacts]) -> Check:
    """Check whether a card is near the temperature at which it slows itself down."""
    known = [card.temperature_c for card in cards if card.temperature_c is not None]
    if not known:
        return Check("temperature", "ok", "not known")
    values = {f"card_{card.index}_c": card.temperature_c for card in cards if card.temperature_c is not None}
    hot = [card for card in cards if card.slowdown_c and (card.temperature_c or 0) >= card.slowdown_c - HOT_C]
    if hot:
        what = f"{label(hot)}: {hot[0].temperature_c} °C, slows down at {hot[0].slowdown_c} °C"
        return Check("temperature", "warning", what, "check its fans and the case's air flow", values=values)
    found = f"{min(known)} °C" if min(known) == max(known) else f"{min(known)} to {max(known)} °C"
    return Check("temperature", "ok", found, values=values)


def memory_errors(cards: list[CardFacts]) -> Check:
    """Check the cards' memory: errors that could not be corrected make results wrong or end a run."""
    values = {f"card_{card.index}_ecc": card.ecc for card in cards if card.ecc is not None}
    if broken := [card for card in cards if card.remap_failed]:
        what = f"{label(broken)}: no spare rows are left"
        return Check("ECC", "failure", what, "leave it out with CUDA_VISIBLE_DEVICES, and have it replaced")
    if wrong := [card for card in cards if card.ecc_errors]:
        what = f"{label(wrong)}: {wrong[0].ecc_errors} errors that could not be corrected"
        return Check("ECC", "failure", what, "restart the machine; if they return, have the card replaced")
    if pending := [card for card in cards if card.remap_pending]:
        what = f"{label(pending)}: a bad row is replaced at the next restart"
        return Check("ECC", "warning", what, "restart the machine", values=values)
    words = {True: "on, no errors", False: "off", None: "these cards have none"}
    return Check("ECC", "ok", alike(cards, lambda card: words[card.ecc]), values=values)


def persistence(cards: list[CardFacts]) -> Check:
    """Check persistence mode: without it and without a display the driver starts anew for every program."""
    off = [card for card in cards if card.persistence is False]
    if off:
        remedy = "sudo nvidia-smi -pm 1, or enable nvidia-persistenced"
        return Check("persistence", "warning", f"{label(off)}: off, so programs start seconds later", remedy)
    known = any(card.persistence is not None for card in cards)
    return Check("persistence", "ok", "on" if known else "not known")


def mig(cards: list[CardFacts]) -> Check:
    """Say which cards are divided into instances."""
    divided = [card for card in cards if card.mig]
    return Check("MIG", "ok", f"{label(divided)}: divided into instances" if divided else "off")


def processes(cards: list[CardFacts]) -> Check:
    """Check who else uses the cards' memory. The plan counts with what is free."""

    def one(process: ProcessFacts) -> str:
        who = f"{process.name or 'a process'} ({process.pid}{', ' + process.user if process.user else ''})"
        return who if process.used_gib is None else f"{who} {process.used_gib:.1f} GiB"

    def say(card: CardFacts) -> str:
        shown = sorted(card.processes, key=lambda process: -(process.used_gib or 0))[:3]
        more = f" and {len(card.processes) - 3} more" if len(card.processes) > 3 else ""
        return ", ".join(map(one, shown)) + more

    values = {f"card_{card.index}_used_gib": card.used_gib for card in cards}
    busy = [card for card in cards if card.used_gib > DISPLAY_GIB]
    if busy:
        what = "; ".join(
            f"card {card.index}: {card.used_gib:.1f} of {card.total_gib:.0f} GiB are taken"
            + (f" by {say(card)}" if card.processes else "")
            for card in busy
        )
        remedy = "end those programs (`make stop` ends a run), or leave the card out with CUDA_VISIBLE_DEVICES"
        return Check("other programs", "warning", what, remedy, values=values)
    some = [card for card in cards if card.processes]
    found = "; ".join(f"card {card.index}: {say(card)}" for card in some)
    return Check("other programs", "ok", found or "none on the cards", values=values)


def numa(cards: list[CardFacts]) -> Check:
    """Say at which processor the cards are."""
    values = {f"card_{card.index}_node": card.numa_node for card in cards if card.numa_node is not None}
    if not values:
        return Check("NUMA", "ok", "one node, or the machine does not say")
    nodes = sorted(set(values.values()))
    if len(nodes) == 1:
        return Check("NUMA", "ok", f"all cards at node {nodes[0]}", values=values)
    where = "; ".join(f"node {node}: {label([card for card in cards if card.numa_node == node])}" for node in nodes)
    return Check("NUMA", "ok", f"{where}; copies between nodes are slower", values=values)


def peers(facts: MachineFacts, cards: list[CardFacts]) -> Check:
    """Say how the cards reach each other's memory."""
    indices = {card.index for card in cards}
    pairs = [pair for pair in facts.pairs if pair.first in indices and pair.second in indices]
    known = [pair for pair in pairs if pair.peer is not None]
    values = {"pairs": len(known), "peer_to_peer": sum(bool(pair.peer) for pair in known)}
    values["nvlink"] = sum(bool(pair.nvlink) for pair in known)
    if switched_off(cards):
        what = "NCCL_P2P_DISABLE=1 is set for these cards: copies go through the machine's memory"
        return Check("peer-to-peer", "ok", what, values=values)
    if not known:
        return Check("peer-to-peer", "ok", "the driver does not say")
    over = "NVLink" if all(pair.nvlink for pair in known) else "PCIe"
    without = [pair for pair in known if not pair.peer]
    if not without:
        return Check("peer-to-peer", "ok", f"between all cards, over {over}", values=values)
    some = "no pair" if len(without) == len(known) else f"{len(known) - len(without)} of {len(known)} pairs"
    return Check("peer-to-peer", "ok", f"{some}: the others copy through the machine's memory", values=values)


def switched_off(cards: list[CardFacts]) -> bool:
    """Tell whether peer-to-peer copies are switched off between these cards."""
    return gpus.are_without_peers(card.name for card in cards)


def iommu(facts: MachineFacts, cards: list[CardFacts]) -> Check:
    """Check whether an IOMMU translates what cards copy to each other: such copies may hang or be slow."""
    kinds = {card.iommu for card in cards if card.iommu}
    values = {"groups": ", ".join(sorted(kinds))}
    if not any(kind.startswith("DMA") for kind in kinds):
        what = "passes the cards' copies through" if kinds else "off, or not visible from here"
        return Check("IOMMU", "ok", what, values=values)
    if switched_off(cards) or not any(pair.peer and not pair.nvlink for pair in facts.pairs):
        return Check("IOMMU", "ok", "on; the cards do not copy to each other over PCIe", values=values)
    what = "translates the cards' copies: those between cards may hang or be slow"
    return Check("IOMMU", "warning", what, IOMMU_REMEDY, values=values)
