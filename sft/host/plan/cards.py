"""What GPUs can do: the table in cards.toml, and which of its cards a name means."""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sft.errors import UserError

TABLE = Path(__file__).with_name("cards.toml")

# Shares of the makers' figures that are reached. Matrix: 790 of 989 TFLOP/s on an H100 (8192 x 8192 x 8192, bf16,
# random data; benchmarks/README.md). Memory: 3.0 of 3.35 TB/s, from the optimizer's 45 ms there.
REACHED_MATRIX = 0.80
REACHED_BANDWIDTH = 0.90
# GB/s between a card and host memory, for offload: 16 lanes of PCIe 4 reach some 20 of 32 with pinned memory. ASSUMED.
OFFLOAD_GB_S = 20.0

# Words that do not tell cards apart.
IGNORED = {"nvidia", "geforce", "rtx", "tesla", "generation", "edition", "workstation", "server", "gpu"}
# Words that make it another card: a 2080 is not a 2080 Ti. People leave out those of a family, but no others.
FAMILIES = {"quadro", "ada", "pro", "blackwell"}
VARIANTS = FAMILIES | {"ti", "super", "d", "laptop", "mobile", "max", "sff", "pcie", "nvl"}
PCIE = {"pcie"}  # the driver's names of A100 and V100 may have it; their PCIe cards are nearly as fast
CLOSE = 0.7  # difflib's ratio of two numbers that differ in one of four digits


@dataclass(frozen=True)
class Card:
    """A kind of GPU, with the maker's figures."""

    name: str
    memory_gib: float
    matrix_tflops: float  # bf16 (before Ampere: fp16), dense, accumulated in fp32
    fp32_tflops: float
    bandwidth_gb_s: float  # of its memory
    link_gb_s: float  # bus bandwidth that reductions reach between cards of one machine
    link: str
    has_bf16: bool = True  # cards without it cannot run the kernels of Triton and flash-attn either
    note: str = ""
    all_reduce_gb_s: float = 0.0  # bus bandwidth of an all-reduce, if it was measured
    host_gb_s: float = OFFLOAD_GB_S  # between the card and the machine's memory
    through_host: str = ""  # its link in the table without peer-to-peer copies; "": it has none in any case

    @property
    def matrix_flops(self) -> float:
        """FLOP/s that large bf16 or fp16 matrix products reach."""
        return self.matrix_tflops * 1e12 * REACHED_MATRIX

    @property
    def fp32_flops(self) -> float:
        """FLOP/s that large fp32 matrix products reach, without TF32."""
        return self.fp32_tflops * 1e12 * REACHED_MATRIX

    @property
    def bytes_per_s(self) -> float:
        """Bytes/s that its memory reaches."""
        return self.bandwidth_gb_s * 1e9 * REACHED_BANDWIDTH

    @property
    def has_peers(self) -> bool:
        """Whether cards of one machine copy to each other, not through its memory."""
        return bool(self.through_host)

    def between_containers(self) -> Card:
        """Return the card as it is in containers, which have only their own cards: copies go through host memory."""
        if not self.through_host:
            return self
        link = LINKS[self.through_host]
        return replace(self, link_gb_s=link["gb_s"], link=link["name"], through_host="")

    def part(self, share: float, memory_gib: float) -> Card:
        """Return a MIG instance: a share of the processors, and bandwidth in proportion to the memory, in eighths."""
        eighths = min(8, max(1, round(8 * memory_gib / self.memory_gib)))
        return replace(
            self,
            memory_gib=memory_gib,
            matrix_tflops=self.matrix_tflops * share,
            fp32_tflops=self.fp32_tflops * share,
            bandwidth_gb_s=self.bandwidth_gb_s * eighths / 8,
        )


def read_cards(table: dict[str, Any]) -> list[Card]:
    """Return the cards of a table in the form of cards.toml."""
    cards = []
    for group in table["groups"]:
        for name, figures in group["cards"].items():
            link = table["links"][figures["link"]]
            cards.append(
                Card(
                    name,
                    figures["memory_gib"],
                    figures["matrix_tflops"],
                    figures["fp32_tflops"],
                    figures["bandwidth_gb_s"],
                    link["gb_s"],
                    link["name"],
                    group.get("has_bf16", True),
                    group.get("note", ""),
                    through_host=link.get("through_host", ""),
                )
            )
    return cards


CONTENT = tomllib.loads(TABLE.read_text(encoding="utf-8"))
LINKS, CARDS = CONTENT["links"], read_cards(CONTENT)


def need(name: str) -> Card:
    """Return the card of a name. Raises UserError for a name that several cards have, or none."""
    found = matches(name)
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"GPU={name}: {len(found)} cards have this name; use {listed(found)}")
    near = similar(name)
    use = f"did you mean {listed(near)}? " if near else ""
    raise UserError(
        f"GPU={name}: is not a card that the plan knows; {use}GPU_GIB=N plans for any card with that much memory"
    )


def find(name: str, memory_gib: float = 0.0) -> Card | None:
    """Return the card of a name, or None. If several have it, `memory_gib` decides: the nearest memory wins."""
    found = matches(name)
    if memory_gib:
        found = sorted(found, key=lambda card: abs(card.memory_gib - memory_gib))[:1]
    return found[0] if len(found) == 1 else None


def matches(name: str) -> list[Card]:
    """Return the cards that a name may mean, as users and drivers write it: `4090`, `NVIDIA A100-SXM4-80GB`, `h100`.

    A card with exactly these words wins. Otherwise the name may have more words than a card, as a driver's has, if none
    of them makes it another card; the card with the most words in common wins. Otherwise the name may lack words of a
    family, or the gigabytes.
    """
    given = words(name)
    exact = [card for card in CARDS if words(card.name) == given]
    if exact:
        return exact
    inside = [card for card in CARDS if words(card.name) <= given and not (given - words(card.name)) & VARIANTS - PCIE]
    if inside:
        most = max(len(words(card.name)) for card in inside)
        return [card for card in inside if len(words(card.name)) == most]
    return [
        card
        for card in CARDS
        if number(card.name) in given
        and given & VARIANTS <= words(card.name)
        and words(card.name) & VARIANTS - FAMILIES <= given
    ]


def similar(name: str) -> list[Card]:
    """Return the cards that were probably meant: their number is nearly the same. A short name is never corrected."""
    wanted = number(" ".join(sorted(words(name))))
    same = [card for card in CARDS if number(card.name) == wanted]
    if same or len(wanted) < 4:  # whoever types P4 does not mean L4
        return same

    def distance(card: Card) -> tuple[bool, float]:
        word = number(card.name)
        return sorted(word) != sorted(wanted), -difflib.SequenceMatcher(None, wanted, word).ratio()

    alike = [card for card in CARDS if number(card.name)[:1] == wanted[:1] and len(number(card.name)) == len(wanted)]
    return [card for card in sorted(alike, key=distance) if distance(card)[1] <= -CLOSE][:3]


def words(name: str) -> set[str]:
    """Return the words and numbers that tell cards apart, however they are joined and ordered."""
    lower = re.sub(r" mig\b.*", "", name.lower())  # NVIDIA A100-SXM4-40GB MIG 1g.5gb
    spaced = re.sub(r"(?<=[a-z])(?=\d{4})|(?<=\d{4})(?=ti|super)|(?<=ti)(?=super)|[-_/]", " ", lower)  # rtx4070ti
    return {re.sub(r"^(\d+) ?gb$", r"\1", word) for word in spaced.split()} - IGNORED


def number(name: str) -> str:
    """Return the word of a name that has a digit: 4090, a100, t4."""
    return next((word for word in re.split(r"[ -]", name.lower()) if re.search(r"\d", word)), name.lower())


def listed(found: list[Card]) -> str:
    """Return the names of cards in words."""
    return " or ".join(card.name for card in found)
