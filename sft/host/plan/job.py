"""The training job as numbers: together with the number of tokens it decides memory and time."""

from __future__ import annotations

from dataclasses import dataclass

from sft.host.plan.cards import Card
from sft.host.plan.shapes import Shape
from sft.settings import deepspeed
from sft.settings.stages import Resolved
from sft.sizes import MAX_LIVE, PERSISTENT_SHARE, SUB_GROUP, reduce_bucket

GIB = 2**30
ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
# Activation functions that are written in PyTorch, step by step: what they keep more, in multiples of their input.
WRITTEN_OUT = {"gelu_new": 3, "gelu_fast": 3, "quick_gelu": 1, "relu2": 1}
NORMS_ON_BOTH_SIDES = 4  # norms of a layer: before and after attention, before and after the feed-forward network
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
    adapts_experts: bool = False  # adapters are on a mixture's experts too
    optimizer_bits: int = 32  # of AdamW's weights and moments
    base_bits: int = 16  # 4: the layers' matrices under the adapters are quantised
    bucket: int = 0  # elements that are reduced together
    contiguous: bool = False  # gradients are copied into buckets
    sub_group: int = SUB_GROUP
    max_live: int = MAX_LIVE  # elements of gathered weights that ZeRO-3 keeps
    persistent: bool = False  # ZeRO-3 keeps the weights whole on every rank
    hosts: int = 1
    wire_gb_s: float = 0.0  # through each host's network card, if there are several
    hpz: int = 0  # GPUs of a host that keep a second copy of the weights together (ZeRO++'s hpZ)
    in_turns: bool = False  # computing and communicating do not overlap
    slower: float = 1.0  # computing takes so many times as long as the card's figures say

    @classmethod
    def of(cls, settings: Resolved, shape: Shape, card: Card, fused: bool = True) -> Job:
        """Return the job of settings, with the values that sft/trainer/engine.py fills in."""
        config = deepspeed.configuration(settings)
        weight_bytes = ELEMENT_BYTES[settings.precision] * shape.weights
        small = weight_bytes <= PERSISTENT_SHARE * card.memory_gib * GIB and "offload_param" not in config.zero
        threshold = config.size("stage3_param_persistence_threshold", shape.weights if small else 0)
        ranks, rank = settings.world_size, settings.lora_rank
        trained = adapter_weights(shape, rank, settings.adapts_experts) if rank else shape.language_weights
        live = shape.largest_layer + shape.head_weights if settings.optimizer_bits == 16 else MAX_LIVE
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
            adapts_experts=settings.adapts_experts,
            optimizer_bits=settings.optimizer_bits,
            base_bits=settings.lora_base_bits,
            bucket=config.size("reduce_bucket_size", reduce_bucket(trained)),
            contiguous=bool(config.zero.get("contiguous_gradients", True)),
            sub_group=config.size("sub_group_size", SUB_GROUP),
            max_live=config.size("stage3_max_live_parameters", live),
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
        if self.lora_rank:
            return adapter_weights(self.shape, self.lora_rank, self.adapts_experts)
        return self.shape.language_weights

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
        """Bytes per token that a layer of attention keeps for backward.

        Its input and the feed-forward network's, both before and after their norms; query, key, value and the
        attention's output; gate, up and their product. Without fused kernels, the norms also keep fp32 copies, and the
        gate's activation is kept. Experts have copies of their input and their output; frozen ones need neither that
        input nor the product. An adapter keeps the input of its small matrices: with dropout, a copy and a mask for
        each adapter, instead of the whole input, which a frozen layer does not need.
        """
        shape, wide = self.shape, self.wide
        pairs = shape.queries + shape.keys
        normed_heads = pairs * bool(shape.head_norms)
        more_norms = shape.hidden * (shape.norms == NORMS_ON_BOTH_SIDES and shape.gated) * 2
        elements = 4 * shape.hidden + more_norms + 2 * pairs + normed_heads + (3 if shape.gated else 2) * wide
        elements += 7 * self.lora_rank
        if shape.experts > 1:
            elements += 2 * shape.hidden * shape.experts_per_token
            if self.lora_rank and not self.adapts_experts:
                elements -= (shape.hidden + shape.intermediate) * shape.experts_per_token
        elements += WRITTEN_OUT.get(shape.activation, 0) * wide
        unfused = 0
        if not (self.fused and shape.has_kernels) and shape.gated:
            unfused = 4 * (2 * shape.hidden + more_norms + normed_heads)
        if not (self.fused and shape.has_feed_forward_kernel) and shape.gated:
            unfused += self.element * wide
        dropped = 2 * shape.hidden / (self.element + 1) if shape.dropout else 0.0  # masks of one byte
        if self.lora_rank and self.lora_dropout:
            dropped += 5 * shape.hidden + shape.queries + wide
            elements -= 2 * shape.hidden + wide  # normalised inputs and the product; attention keeps its own output
        return self.element * elements + unfused + (self.element + 1) * dropped  # with the masks

    @property
    def wide(self) -> int:
        """Width of the feed-forward network that a token goes through: of all its experts together."""
        return self.shape.experts_per_token * self.shape.intermediate + self.shape.shared

    @property
    def mixer_bytes(self) -> float:
        """Bytes per token that a layer without attention keeps more than one with it."""
        attention = (
            0 if self.shape.mixers.beside_attention else 2 * self.element * (self.shape.queries + self.shape.keys)
        )
        return self.shape.mixers.bytes_per_token - attention if self.shape.mixers.layers else 0

    @property
    def adapted_experts_bytes(self) -> tuple[float, float]:
        """Bytes of a layer's experts with their adapters added, and of those that all layers keep for backward."""
        one = self.element * self.shape.expert_layer_weights * self.adapts_experts
        return one, 0 if self.recompute else one * (self.shape.layers - self.shape.dense_layers)

    @property
    def all_layers_bytes(self) -> float:
        """Bytes per token that all layers keep for backward."""
        return self.shape.layers * self.layer_bytes + self.shape.mixers.layers * self.mixer_bytes

    @property
    def largest_layer_bytes(self) -> float:
        """Bytes per token that one layer keeps for backward, the one that keeps most."""
        return self.layer_bytes + max(0, self.mixer_bytes)

    @property
    def backward_bytes(self) -> float:
        """Bytes per token of a layer's gradients in backward, beside what was kept."""
        copies = 2 * self.shape.hidden * self.shape.experts_per_token * (self.shape.experts > 1)
        return max(self.element * (self.wide + 4 * self.shape.hidden + copies), self.shape.mixers.again)


def adapter_weights(shape: Shape, rank: int, experts: bool) -> int:
    """Return the weights of LoRA adapters: on every linear layer, and on `experts`."""
    return shape.lora_weights(rank) + experts * shape.expert_lora_weights(rank)
