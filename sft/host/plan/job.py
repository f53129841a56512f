"""The training job as numbers: together with the number of tokens it decides memory and time."""

from __future__ import annotations

from dataclasses import dataclass

from sft.host.plan.cards import Card
from sft.host.plan.shapes import Shape
from sft.settings import deepspeed
from sft.settings.stages import Resolved
from sft.sizes import PERSISTENT_SHARE, SUB_GROUP, reduce_bucket

GIB = 2**30
ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
# A weight in NF4: 4 bits, 8 bits of scale for every 64 weights, and an fp32 scale for every 256 of those scales.
NF4_BYTES = 4 / 8 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Job:
    """The settings of a run as numbers, with the model's shape and the card."""

    shape: Shape
    card: Card
    ranks: int
    stage: int  # of ZeRO
    precision: str
    recompute: bool  # activations in backward
    fused: bool  # norms and the feed-forward layer's product in kernels of their own: Liger's or compiled
    compile: bool
    offload_optimizer: bool = False
    offload_weights: bool = False
    lora_rank: int = 0  # of adapters on every matrix of the layers, whatever LORA_TARGETS says
    lora_dropout: bool = False
    base_bits: int = 16  # 4: the layers' matrices under the adapters are quantised
    bucket: int = 0  # elements that are reduced together
    contiguous: bool = False  # gradients are copied into buckets
    sub_group: int = SUB_GROUP
    persistent: bool = False  # ZeRO-3 keeps the weights whole on every rank
    hosts: int = 1
    wire_gb_s: float = 0.0  # through each host's network card, if there are several
    hpz: int = 0  # GPUs of a host that keep a second copy of the weights together (ZeRO++'s hpZ)

    @classmethod
    def of(cls, settings: Resolved, shape: Shape, card: Card, fused: bool = True) -> Job:
        """Return the job of settings, with the values that sft/trainer/engine.py fills in."""
        config = deepspeed.configuration(settings)
        weight_bytes = ELEMENT_BYTES[settings.precision] * shape.weights
        small = weight_bytes <= PERSISTENT_SHARE * card.memory_gib * GIB and "offload_param" not in config.zero
        threshold = config.size("stage3_param_persistence_threshold", shape.weights if small else 0)
        ranks, rank = settings.world_size, settings.lora_rank
        trained = shape.lora_weights(rank) if rank else shape.language_weights
        return cls(
            shape=shape,
            card=card,
            ranks=ranks,
            stage=config.stage,
            precision=settings.precision,
            recompute=bool(settings.gradient_checkpointing),
            fused=fused or settings.compile,
            compile=settings.compile,
            offload_optimizer=config.offloads("offload_optimizer"),
            offload_weights=config.offloads("offload_param"),
            lora_rank=rank,
            lora_dropout=settings.lora_dropout > 0,
            base_bits=settings.lora_base_bits,
            bucket=config.size("reduce_bucket_size", reduce_bucket(trained)),
            contiguous=bool(config.zero.get("contiguous_gradients", True)),
            sub_group=config.size("sub_group_size", SUB_GROUP),
            hpz=config.size("zero_hpz_partition_size", 0),
            persistent=config.stage == 3 and ranks > 1 and threshold >= shape.head_weights,
        )

    @property
    def keeps_gathers_inside(self) -> bool:
        """Whether the weights are gathered for backward from the GPUs of each host alone."""
        return self.stage == 3 and self.hosts > 1 and self.hpz > 1 and not self.persistent

    @property
    def element(self) -> int:
        """Bytes of a weight, a gradient or an activation."""
        return ELEMENT_BYTES[self.precision]

    @property
    def trained(self) -> int:
        """Weights that are trained."""
        return self.shape.lora_weights(self.lora_rank) if self.lora_rank else self.shape.language_weights

    @property
    def weights(self) -> int:
        """Weights of the model and of its adapters."""
        return self.shape.weights + (self.trained if self.lora_rank else 0)

    @property
    def quantised(self) -> int:
        """Weights in 4 bits."""
        return self.shape.linear_weights if self.base_bits == 4 else 0

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights, before they are sharded."""
        return self.element * (self.weights - self.quantised) + NF4_BYTES * self.quantised

    @property
    def layer_bytes(self) -> float:
        """Bytes per token that a layer keeps for backward.

        Its input and the feed-forward network's, both before and after their norms; query, key, value and the
        attention's output; gate, up and their product. Without fused kernels, the norms also keep fp32 copies, and the
        gate's activation is kept. An adapter keeps the input of its small matrices: with dropout, a copy and a mask for
        each adapter, instead of the whole input, which a frozen layer does not need.
        """
        shape = self.shape
        wide = shape.experts_per_token * shape.intermediate
        elements = 4 * shape.hidden + 2 * (shape.queries + shape.keys) + (3 if shape.gated else 2) * wide
        normed_heads = (shape.queries + shape.keys) * bool(shape.head_norms)
        elements += normed_heads + 7 * self.lora_rank
        unfused = 0 if self.fused else 4 * (2 * shape.hidden + normed_heads) + self.element * wide * shape.gated
        dropped = 0
        if self.lora_rank and self.lora_dropout:
            dropped = 5 * shape.hidden + shape.queries + wide
            elements -= 2 * shape.hidden + wide  # normalised inputs and the product; attention keeps its own output
        return self.element * elements + unfused + (self.element + 1) * dropped  # with the masks

    @property
    def backward_bytes(self) -> float:
        """Bytes per token of a layer's gradients in backward, beside what was kept."""
        wide = self.shape.experts_per_token * self.shape.intermediate
        return self.element * (wide + 4 * self.shape.hidden)
