"""What GPUs can do, for planning without them. Memory of the cards that are here comes from the driver instead.

Memory is what CUDA reports (`torch.cuda` total memory), a little less than the box says, and 7 % less where error
correction takes its share. Matrix rates and bandwidths are the makers' figures, from the papers named above each group;
`REACHED` brings the rates down to what is seen. Links are what ZeRO's reductions reach, which is far less than what a
link could carry.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace

from sft.errors import UserError

# Shares of the makers' figures that are reached. Matrix: 790 of 989 TFLOP/s on an H100 (8192 x 8192 x 8192, bf16,
# random data; benchmarks/README.md). Memory: 3.0 of 3.35 TB/s, from the optimizer's 45 ms there.
REACHED_MATRIX = 0.80
REACHED_BANDWIDTH = 0.90

# GB/s of bus bandwidth. NVLink 4: from two H100s, 6.2 GB a step in 35 ms (benchmarks/README.md). NVLink 3 and 2 have
# 600 and 300 of its 900 GB/s. PCIe without peer-to-peer goes through host memory: 14.9 between two H100s on PCIe 5.0
# with it switched off, so 10 for PCIe 4.0 and 6 for 3.0 are ASSUMED, and so is twice as much with peer-to-peer (cards
# for workstations and servers). A card with 8 lanes has half.
NVLINK4, NVLINK3, NVLINK2 = 178.0, 118.0, 59.0
PCIE3_HOST, PCIE4_HOST, PCIE5_HOST, PCIE3_PEER, PCIE4_PEER, PCIE5_PEER = 6.0, 10.0, 15.0, 12.0, 20.0, 30.0
# GB/s between a card and host memory, for offload: 16 lanes of PCIe 4 reach some 20 of 32 with pinned memory. ASSUMED.
OFFLOAD_GB_S = 20.0


@dataclass(frozen=True)
class Card:
    """A kind of GPU."""

    name: str
    memory_gib: float
    matrix_tflops: float  # bf16 (of Turing and Volta fp16), dense, accumulated in fp32
    fp32_tflops: float
    bandwidth_gb_s: float  # of its memory
    link_gb_s: float  # bus bandwidth that reductions reach between cards of one machine
    link: str
    has_bf16: bool = True  # Ampere and newer. Older cards have neither bf16 nor the kernels of Triton and flash-attn
    note: str = ""

    @property
    def matrix_flops(self) -> float:
        """FLOP/s of large bf16 or fp16 matrix products."""
        return self.matrix_tflops * 1e12 * REACHED_MATRIX

    @property
    def fp32_flops(self) -> float:
        """FLOP/s of large fp32 matrix products, without TF32."""
        return self.fp32_tflops * 1e12 * REACHED_MATRIX

    @property
    def bytes_per_s(self) -> float:
        """Bytes/s of its memory."""
        return self.bandwidth_gb_s * 1e9 * REACHED_BANDWIDTH

    def part(self, share: float, memory_gib: float) -> Card:
        """Return an instance with a share of the processors. Bandwidth is cut with the memory, into eighths."""
        eighths = min(8, max(1, round(8 * memory_gib / self.memory_gib)))
        return replace(
            self,
            memory_gib=memory_gib,
            matrix_tflops=self.matrix_tflops * share,
            fp32_tflops=self.fp32_tflops * share,
            bandwidth_gb_s=self.bandwidth_gb_s * eighths / 8,
        )


HOST3, HOST4, HOST5 = (f"PCIe {generation}.0 through host memory (assumed)" for generation in (3, 4, 5))
PEER3, PEER4, PEER5 = (f"PCIe {generation}.0 peer-to-peer (assumed)" for generation in (3, 4, 5))
HALF4, HALF5 = (f"PCIe {generation}.0 x8 through host memory (assumed)" for generation in (4, 5))
VOLTA = "PyTorch's builds for CUDA 13 do not run on it: install one for CUDA 12.6"
CARDS = [
    # NVIDIA's architecture papers: Volta V100, Turing (TU102, TU104), and the data sheets of V100, T4 and Quadro RTX.
    Card("V100 16GB", 15.7, 125, 15.7, 900, NVLINK2, "NVLink 2 (assumed)", has_bf16=False, note=VOLTA),
    Card("V100 32GB", 31.7, 125, 15.7, 900, NVLINK2, "NVLink 2 (assumed)", has_bf16=False, note=VOLTA),
    Card("T4", 14.7, 65, 8.1, 320, PCIE3_PEER, PEER3, has_bf16=False),
    Card("RTX 2080 Ti", 10.7, 53.8, 13.4, 616, PCIE3_HOST, HOST3, has_bf16=False),
    Card("RTX 2080", 7.7, 40.3, 10.1, 448, PCIE3_HOST, HOST3, has_bf16=False),
    Card("Titan RTX", 23.6, 130.5, 16.3, 672, PCIE3_HOST, HOST3, has_bf16=False),
    Card("Quadro RTX 4000", 7.7, 57, 7.1, 416, PCIE3_PEER, PEER3, has_bf16=False),
    Card("Quadro RTX 5000", 15.7, 89.2, 11.2, 448, PCIE3_PEER, PEER3, has_bf16=False),
    Card("Quadro RTX 6000", 22.1, 130.5, 16.3, 672, PCIE3_PEER, PEER3, has_bf16=False),
    Card("Quadro RTX 8000", 44.4, 130.5, 16.3, 672, PCIE3_PEER, PEER3, has_bf16=False),
    # NVIDIA's architecture papers: Ampere GA102, Ada, RTX Blackwell. A GeForce card's tensor cores, accumulating in
    # fp32, do twice what its shaders do in fp32, which is 2 x cores x boost clock where no paper names the card.
    Card("RTX 3060", 11.7, 25.5, 12.7, 360, PCIE4_HOST, HOST4),
    Card("RTX 3060 Ti", 7.7, 32.4, 16.2, 448, PCIE4_HOST, HOST4),
    Card("RTX 3070", 7.7, 40.6, 20.3, 448, PCIE4_HOST, HOST4),
    Card("RTX 3070 Ti", 7.7, 43.5, 21.7, 608, PCIE4_HOST, HOST4),
    Card("RTX 3080", 9.7, 59.5, 29.8, 760, PCIE4_HOST, HOST4),
    Card("RTX 3080 12GB", 11.7, 61.3, 30.6, 912, PCIE4_HOST, HOST4),
    Card("RTX 3080 Ti", 11.7, 68.2, 34.1, 912, PCIE4_HOST, HOST4),
    Card("RTX 3090", 23.7, 71, 35.6, 936, PCIE4_HOST, HOST4),
    Card("RTX 3090 Ti", 23.7, 80, 40.0, 1008, PCIE4_HOST, HOST4),
    Card("RTX 4060", 7.7, 30.2, 15.1, 272, PCIE4_HOST / 2, HALF4),
    Card("RTX 4060 Ti 8GB", 7.7, 44.1, 22.1, 288, PCIE4_HOST / 2, HALF4),
    Card("RTX 4060 Ti 16GB", 15.7, 44.1, 22.1, 288, PCIE4_HOST / 2, HALF4),
    Card("RTX 4070", 11.7, 58.3, 29.1, 504, PCIE4_HOST, HOST4),
    Card("RTX 4070 SUPER", 11.7, 71.0, 35.5, 504, PCIE4_HOST, HOST4),
    Card("RTX 4070 Ti", 11.7, 80.2, 40.1, 504, PCIE4_HOST, HOST4),
    Card("RTX 4070 Ti SUPER", 15.7, 88.2, 44.1, 672, PCIE4_HOST, HOST4),
    Card("RTX 4080", 15.7, 97.5, 48.7, 717, PCIE4_HOST, HOST4),
    Card("RTX 4080 SUPER", 15.7, 104.4, 52.2, 736, PCIE4_HOST, HOST4),
    Card("RTX 4090", 23.6, 165, 82.6, 1008, PCIE4_HOST, HOST4),
    Card("RTX 4090 D", 23.6, 147, 73.5, 1008, PCIE4_HOST, HOST4),
    Card("RTX 5060 Ti 8GB", 7.6, 47.4, 23.7, 448, PCIE5_HOST / 2, HALF5),
    Card("RTX 5060 Ti 16GB", 15.5, 47.4, 23.7, 448, PCIE5_HOST / 2, HALF5),
    Card("RTX 5070", 11.6, 61.7, 30.9, 672, PCIE5_HOST, HOST5),
    Card("RTX 5070 Ti", 15.5, 87.9, 43.9, 896, PCIE5_HOST, HOST5),
    Card("RTX 5080", 15.5, 112.6, 56.3, 960, PCIE5_HOST, HOST5),
    Card("RTX 5090", 31.4, 209, 104.8, 1792, PCIE5_HOST, HOST5),
    # NVIDIA's data sheets of the cards, sparse rates halved. Those of Ada for workstations name sparse fp8: a quarter.
    Card("RTX A2000", 11.7, 31.9, 8.0, 288, PCIE4_PEER, PEER4),
    Card("RTX A4000", 15.7, 76.7, 19.2, 448, PCIE4_PEER, PEER4),
    Card("RTX A4500", 19.6, 94.6, 23.7, 640, PCIE4_PEER, PEER4),
    Card("RTX A5000", 23.6, 111, 27.8, 768, PCIE4_PEER, PEER4),
    Card("RTX A6000", 47.4, 155, 38.7, 768, PCIE4_PEER, PEER4),
    Card("RTX 2000 Ada", 15.6, 48, 12.0, 224, PCIE4_PEER / 2, PEER4),
    Card("RTX 4000 Ada", 19.5, 107, 26.7, 360, PCIE4_PEER, PEER4),
    Card("RTX 4500 Ada", 23.5, 158, 39.6, 432, PCIE4_PEER, PEER4),
    Card("RTX 5000 Ada", 31.5, 261, 65.3, 576, PCIE4_PEER, PEER4),
    Card("RTX 6000 Ada", 47.4, 364, 91.1, 960, PCIE4_PEER, PEER4),
    Card("RTX PRO 6000 Blackwell", 94.9, 504, 126, 1792, PCIE5_PEER, PEER5),
    Card("A10", 22.1, 125, 31.2, 600, PCIE4_PEER, PEER4),
    Card("A10G", 22.1, 70, 31.5, 600, PCIE4_PEER, PEER4),
    Card("A30", 23.5, 165, 10.3, 933, PCIE4_PEER, PEER4),
    Card("A40", 44.4, 150, 37.4, 696, PCIE4_PEER, PEER4),
    Card("L4", 22.0, 121, 30.3, 300, PCIE4_PEER, PEER4),
    Card("L40", 44.4, 181, 90.5, 864, PCIE4_PEER, PEER4),
    Card("L40S", 44.4, 362, 91.6, 864, PCIE4_PEER, PEER4),
    Card("A100 40GB", 39.4, 312, 19.5, 1555, NVLINK3, "NVLink 3"),
    Card("A100 80GB", 79.2, 312, 19.5, 2039, NVLINK3, "NVLink 3"),
    Card("H100 PCIe", 79.2, 756, 51, 2039, PCIE5_PEER, PEER5),
    Card("H100 NVL", 93.1, 835, 60, 3938, PCIE5_PEER, PEER5),
    Card("H100", 79.2, 989, 67, 3352, NVLINK4, "NVLink 4"),
    Card("H200", 139.8, 989, 67, 4800, NVLINK4, "NVLink 4"),
    Card("B200", 178.0, 2250, 75, 8000, NVLINK4 * 2, "NVLink 5 (assumed)"),
]
IGNORED = {"nvidia", "geforce", "rtx", "tesla", "generation", "edition", "workstation", "server", "gpu"}
# Words that make another card of a name. People leave out those of a family, never the others: a 2080 is no 2080 Ti.
FAMILIES = {"quadro", "ada", "pro", "blackwell"}
VARIANTS = FAMILIES | {"ti", "super", "d", "laptop", "mobile", "max", "sff", "pcie", "nvl"}


PCIE = {"pcie"}  # a driver says it of A100 and V100 too, whose cards for PCIe are nearly as fast
CLOSE = 0.7  # of two numbers, as difflib counts it: one of four digits is wrong


def words(name: str) -> set[str]:
    """Return what tells card names apart: words and numbers, however they are joined and ordered."""
    lower = re.sub(r" mig\b.*", "", name.lower())  # NVIDIA A100-SXM4-40GB MIG 1g.5gb
    spaced = re.sub(r"(?<=[a-z])(?=\d{4})|(?<=\d{4})(?=ti|super)|(?<=ti)(?=super)|[-_/]", " ", lower)  # rtx4070ti
    return {re.sub(r"^(\d+) ?gb$", r"\1", word) for word in spaced.split()} - IGNORED


def number(name: str) -> str:
    """Return the word that names the chip's rank: 4090, a100, t4."""
    return next((word for word in re.split(r"[ -]", name.lower()) if re.search(r"\d", word)), name.lower())


def matches(name: str) -> list[Card]:
    """Return the cards that a name may mean, as users and drivers write it: `4090`, `NVIDIA A100-SXM4-80GB`, `h100`.

    A card with the same words is the one. Otherwise all of a card's words stand in the name, which adds nothing that
    makes another card of it, and the card with most of them counts; or the name lacks a family's word or the gigabytes.
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


def find(name: str, memory_gib: float = 0.0) -> Card | None:
    """Return the card of a name, of several the one with the nearest memory if that is known; None if there is none."""
    found = matches(name)
    if memory_gib:
        found = sorted(found, key=lambda card: abs(card.memory_gib - memory_gib))[:1]
    return found[0] if len(found) == 1 else None


def need(name: str) -> Card:
    """Return the card of a name. Raises UserError for one that may mean several, or that is not in the table."""
    found = matches(name)
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"GPU={name}: {len(found)} cards have this name; use {listed(found)}")
    near = similar(name)
    use = f"did you mean {listed(near)}? " if near else ""
    raise UserError(
        f"GPU={name}: is not a card that the plan knows; {use}GPU_GIB=N plans for any card of so much memory"
    )


def similar(name: str) -> list[Card]:
    """Return the cards that were probably meant: those whose number is nearly the same, never another short name."""
    wanted = number(" ".join(sorted(words(name))))
    same = [card for card in CARDS if number(card.name) == wanted]
    if same or len(wanted) < 4:  # P4 is no slip of the finger for L4
        return same

    def distance(card: Card) -> tuple[bool, float]:
        word = number(card.name)
        return sorted(word) != sorted(wanted), -difflib.SequenceMatcher(None, wanted, word).ratio()

    alike = [card for card in CARDS if number(card.name)[:1] == wanted[:1] and len(number(card.name)) == len(wanted)]
    return [card for card in sorted(alike, key=distance) if distance(card)[1] <= -CLOSE][:3]


def listed(found: list[Card]) -> str:
    """Return names in words."""
    return " or ".join(card.name for card in found)
