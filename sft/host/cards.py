"""What GPUs can do, for planning without them. Memory of the cards that are here comes from the driver instead.

Memory is what CUDA reports (`torch.cuda` total memory), a little less than the box says. Matrix rates and bandwidths
are the makers' figures, from the data sheets named behind each line; `REACHED` brings the rates down to what is seen.
Links are what ZeRO's reductions reach, which is far less than what a link could carry.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from sft.errors import UserError

# Shares of the makers' figures that are reached. Matrix: 790 of 989 TFLOP/s on an H100 (8192 x 8192 x 8192, bf16,
# random data; benchmarks/README.md). Memory: 3.0 of 3.35 TB/s, from the optimizer's 45 ms there.
REACHED_MATRIX = 0.80
REACHED_BANDWIDTH = 0.90

# GB/s of bus bandwidth. NVLink 4: from two H100s, 6.2 GB a step in 35 ms (benchmarks/README.md). NVLink 3 has 600 of
# its 900 GB/s. PCIe without peer-to-peer goes through host memory: 14.9 between two H100s on PCIe 5.0 with it switched
# off, so 10 for PCIe 4.0 is ASSUMED, and so is twice as much with peer-to-peer (cards for workstations and servers).
NVLINK4, NVLINK3 = 178.0, 118.0
PCIE4_HOST, PCIE5_HOST, PCIE4_PEER, PCIE5_PEER = 10.0, 15.0, 20.0, 30.0
# GB/s between a card and host memory, for offload: 16 lanes of PCIe 4 reach some 20 of 32 with pinned memory. ASSUMED.
OFFLOAD_GB_S = 20.0


@dataclass(frozen=True)
class Card:
    """A kind of GPU."""

    name: str
    memory_gib: float
    bf16_tflops: float  # dense, accumulated in fp32
    fp32_tflops: float
    bandwidth_gb_s: float  # of its memory
    link_gb_s: float  # bus bandwidth that reductions reach between cards of one machine
    link: str

    @property
    def matrix_flops(self) -> float:
        """FLOP/s of large bf16 or fp16 matrix products."""
        return self.bf16_tflops * 1e12 * REACHED_MATRIX

    @property
    def fp32_flops(self) -> float:
        """FLOP/s of large fp32 matrix products, without TF32."""
        return self.fp32_tflops * 1e12 * REACHED_MATRIX

    @property
    def bytes_per_s(self) -> float:
        """Bytes/s of its memory."""
        return self.bandwidth_gb_s * 1e9 * REACHED_BANDWIDTH


HOST4, HOST5 = "PCIe 4.0 through host memory (assumed)", "PCIe 5.0 through host memory (assumed)"
PEER4, PEER5 = "PCIe 4.0 peer-to-peer (assumed)", "PCIe 5.0 peer-to-peer (assumed)"
CARDS = [
    # NVIDIA's architecture papers: Ampere GA102 (3090, A6000), Ada (4090, 4080), RTX Blackwell (5090).
    Card("RTX 3090", 23.7, 71, 35.6, 936, PCIE4_HOST, HOST4),
    Card("RTX 4080", 15.7, 97.5, 48.7, 717, PCIE4_HOST, HOST4),
    Card("RTX 4090", 23.6, 165, 82.6, 1008, PCIE4_HOST, HOST4),
    Card("RTX 5090", 31.4, 209, 104.8, 1792, PCIE5_HOST, HOST5),
    # NVIDIA's data sheets of the cards, sparse rates halved.
    Card("RTX A6000", 47.4, 155, 38.7, 768, PCIE4_PEER, PEER4),
    Card("RTX 6000 Ada", 47.4, 364, 91.1, 960, PCIE4_PEER, PEER4),
    Card("RTX PRO 6000 Blackwell", 94.9, 504, 126, 1792, PCIE5_PEER, PEER5),
    Card("A10G", 22.1, 70, 31.5, 600, PCIE4_PEER, PEER4),
    Card("L4", 22.0, 121, 30.3, 300, PCIE4_PEER, PEER4),
    Card("L40S", 44.4, 362, 91.6, 864, PCIE4_PEER, PEER4),
    Card("A100 40GB", 39.4, 312, 19.5, 1555, NVLINK3, "NVLink 3"),
    Card("A100 80GB", 79.2, 312, 19.5, 2039, NVLINK3, "NVLink 3"),
    Card("H100 PCIe", 79.2, 756, 51, 2039, PCIE5_PEER, PEER5),
    Card("H100 80GB", 79.2, 989, 67, 3352, NVLINK4, "NVLink 4"),
    Card("H200", 139.8, 989, 67, 4800, NVLINK4, "NVLink 4"),
    Card("B200", 178.0, 2250, 75, 8000, NVLINK4 * 2, "NVLink 5 (assumed)"),
]


def words(name: str) -> set[str]:
    """Return what tells card names apart: words and numbers, however they are joined and ordered."""
    spaced = re.sub(r"(?<=[a-z])(?=\d{4})|[-_/]", " ", name.lower())  # rtx4090, a100-sxm4-40gb
    return {re.sub(r"^(\d+)gb$", r"\1", word) for word in spaced.split()} - {
        "nvidia",
        "geforce",
        "rtx",
        "generation",
        "edition",
    }


def find(name: str) -> Card | None:
    """Return the card of a name as users and drivers write it: `4090`, `NVIDIA A100-SXM4-80GB`, `h100`.

    It is the one with the most words in common among those that contradict nothing: every word of the table's name
    stands in the given one, or the other way round. Of several the largest.
    """
    given = words(name)
    agree = [card for card in CARDS if given and (given <= words(card.name) or words(card.name) <= given)]
    return max(agree, key=lambda card: (len(words(card.name) & given), card.memory_gib, card.bf16_tflops), default=None)


def need(name: str) -> Card:
    """Return the card of a name. Raises UserError with the nearest names for one that is not in the table."""
    card = find(name)
    if card:
        return card
    by_word = {" ".join(sorted(words(card.name))): card.name for card in CARDS}
    near = difflib.get_close_matches(" ".join(sorted(words(name))), by_word, n=3, cutoff=0.4)
    asked = f"did you mean {' or '.join(by_word[word] for word in near)}?" if near else "use one of"
    others = "" if near else " " + ", ".join(card.name for card in CARDS)
    raise UserError(f"--gpu={name}: is no card that the plan knows; {asked}{others}")
