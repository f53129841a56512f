"""The arithmetic of the plan: the GPU memory that one micro-step needs, and the time that a step takes.

Every formula follows from what the trainer and DeepSpeed 0.19.8 do; what was fitted to measurements is a constant
here or in `cards`, with its source. tests/unit/test_plan.py holds both to the measured figures of
benchmarks/README.md, so that they can be calibrated again in one place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sft.host.plan.cards import OFFLOAD_GB_S, Card
from sft.host.plan.shapes import Shape
from sft.host.plan.workload import Rows, Work
from sft.settings.fields import Settings
from sft.sizes import CHUNK_BYTES, PERSISTENT_SHARE, SUB_GROUP, reduce_bucket

GIB = 2**30
ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
ADAM_BYTES = 12  # a weight's fp32 master and two moments
# A weight in NF4: 4 bits, 8 bits of scale for each 64 of them, and an fp32 scale for each 256 of those scales.
NF4_BYTES = 4 / 8 + 1 / 64 + 4 / (64 * 256)
NF4_SCALE_BYTES = 4 / 64  # of a matrix that is being unpacked: its scales in fp32
MAX_LIVE = 1_000_000_000  # elements of gathered weights that ZeRO-3 keeps: DeepSpeed's default
# Outside the allocator, so not in mem/peak_gib: driver, kernels and cuBLAS; NCCL's buffers. ASSUMED.
CONTEXT_BYTES, NCCL_BYTES = 0.6 * GIB, 0.4 * GIB

# Fitted to one H100 (benchmarks/README.md): 15.0 us a token of the 1B shape, 72 ms a step beside that.
MATRIX_EFFICIENCY = 0.82  # of a model's matrix products against one large one
PASSES = 8.0  # times that what a layer keeps goes through the GPU's memory, forward and backward
PASSES_RECOMPUTED = 3.0  # as many more where it is computed twice: the forward pass alone
PASSES_COMPILED = 1.0  # as many fewer with torch.compile
HEAD_BYTES = 50  # of traffic for each logit: bf16 and fp32 copies, softmax, two matrix products (sft/trainer/loss.py)
OPTIMIZER_BYTES = 110  # of traffic for each weight: 45 ms of GPU for 1.236e9 weights
STEP_HOST_S = 0.027  # of a step in which the GPU waits: the norm's value, starting the optimizer, the loss
HOST_S, HOST_LAYER_S = 0.006, 0.0072  # Python of one micro-step, and of each layer in it: 121 ms for 16 layers
HOST_ADAPTER_S = 0.0045  # more of each layer whose matrices have adapters
HOST_UNPACK_S = 0.0045  # more of each layer whose matrices are in 4 bits
HOST_GATHER_S = 0.003  # more of each layer whose weights are gathered anew in every micro-step
TOGETHER = 4  # GPU and Python work side by side where one is far behind; in step they wait for each other: a 4-norm
ADAPTER_PASSES = 6.0  # times that what adapters read and write goes through the GPU's memory, forward and backward
REDUCED_TO_ALL = 1.35  # times the speed of scattering and gathering: two H100s reach 240 GB/s instead of 178
OVERLAP = 0.5  # of the shorter of computing and communicating that is hidden behind the longer (two H100s)
# Offload: bytes of host memory's traffic for each weight in Adam, and what the ranks of a host share. ASSUMED.
HOST_ADAM_BYTES, HOST_BYTES_PER_S = 36, 60e9


@dataclass(frozen=True)
class Job:
    """What is trained on what, and how."""

    shape: Shape
    card: Card
    ranks: int
    stage: int
    precision: str
    recompute: bool
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

    @classmethod
    def of(cls, settings: Settings, shape: Shape, card: Card, fused: bool = True) -> Job:
        """Return the job of settings with a known precision, as sft/trainer/engine.py fills in DeepSpeed's file."""
        zero: dict[str, Any] = settings.deepspeed()["zero_optimization"]
        weight_bytes = ELEMENT_BYTES[settings.precision] * shape.weights
        small = weight_bytes <= PERSISTENT_SHARE * card.memory_gib * GIB and "offload_param" not in zero
        threshold = zero.get("stage3_param_persistence_threshold", shape.weights if small else 0)

        def offloads(what: str) -> bool:
            device = zero.get(what, {}).get("device", "none")
            return bool(device != "none")

        ranks, rank = settings.world_size, settings.lora_rank
        trained = shape.lora_weights(rank) if rank else shape.weights
        return cls(
            shape=shape,
            card=card,
            ranks=ranks,
            stage=zero["stage"],
            precision=settings.precision,
            recompute=bool(settings.gradient_checkpointing),
            fused=fused or settings.compile,
            compile=settings.compile,
            offload_optimizer=offloads("offload_optimizer"),
            offload_weights=offloads("offload_param"),
            lora_rank=rank,
            lora_dropout=settings.lora_dropout > 0,
            base_bits=settings.lora_base_bits,
            bucket=zero.get("reduce_bucket_size", reduce_bucket(trained)),
            contiguous=zero.get("contiguous_gradients", True),
            sub_group=zero.get("sub_group_size", SUB_GROUP),
            persistent=zero["stage"] == 3 and ranks > 1 and threshold >= shape.head_weights,
        )

    @property
    def element(self) -> int:
        """Bytes of a weight, a gradient or an activation."""
        return ELEMENT_BYTES[self.precision]

    @property
    def trained(self) -> int:
        """Weights that are trained."""
        return self.shape.lora_weights(self.lora_rank) if self.lora_rank else self.shape.weights

    @property
    def held(self) -> int:
        """Weights that are in memory."""
        return self.shape.weights + (self.trained if self.lora_rank else 0)

    @property
    def quantised(self) -> int:
        """Weights that are in memory in 4 bits."""
        return self.shape.linear_weights if self.base_bits == 4 else 0

    @property
    def weight_bytes(self) -> float:
        """Bytes of the weights that are in memory."""
        return self.element * (self.held - self.quantised) + NF4_BYTES * self.quantised

    @property
    def layer_bytes(self) -> float:
        """Bytes that a layer keeps of each token for backward.

        Its input and that of the feed-forward part, both also normalised; query, key, value and the attention's output;
        gate, up and their product. Without fused kernels, norms keep fp32 copies and the gate's activation stays. An
        adapter keeps what its small matrices see: where some of it is dropped, each its own copy with a mask instead
        of the whole, which a frozen layer has no use for.
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
        """Bytes of each token that a layer's backward makes beside what was kept: gradients on their way."""
        wide = self.shape.experts_per_token * self.shape.intermediate
        return self.element * (wide + 4 * self.shape.hidden)


@dataclass(frozen=True)
class Memory:
    """Bytes in one GPU's memory at the three moments of a step at which most is in it, by part."""

    moments: dict[str, dict[str, float]]

    @property
    def peak_moment(self) -> str:
        """The moment with most."""
        return max(self.moments, key=lambda moment: sum(self.moments[moment].values()))

    @property
    def peak(self) -> float:
        """Bytes at that moment, everything counted."""
        return sum(self.moments[self.peak_moment].values())

    @property
    def allocated(self) -> float:
        """Bytes of them that torch's allocator counts, as `mem/peak_gib` does."""
        return self.peak - self.moments[self.peak_moment]["CUDA context"]


def memory(job: Job, tokens: float, target_share: float, micro_steps: int) -> Memory:
    """Return what a GPU holds when its largest micro-step has `tokens` tokens."""
    shape, element = job.shape, job.element
    sharded = job.ranks if job.stage == 3 else 1
    on_gpu = 0 if job.offload_weights else job.weight_bytes / sharded
    whole = element * job.held * job.persistent
    gathered = gathered_bytes(job)
    shard = job.trained / job.ranks
    optimizer = 0 if job.offload_optimizer else ADAM_BYTES * shard
    # ZeRO-3 has room for its shard's gradients all the time, ZeRO-2 from the first reduction on, ZeRO-1 shards nothing.
    accumulated = element * (job.trained if job.stage == 1 else shard) * (not job.offload_optimizer)
    before = accumulated if job.stage == 3 or micro_steps > 1 else 0
    head_gradient = 0 if job.lora_rank else element * shape.head_weights
    ends = element * shape.hidden * (2 + 2 * target_share)  # around the last norm, and the loss's input and gradient
    kept = tokens * (ends + shape.layers * (element * shape.hidden if job.recompute else job.layer_bytes))
    at_work = tokens * (job.backward_bytes + (job.layer_bytes if job.recompute else 0))
    bucket = element * min(job.trained, job.bucket)
    buffers = bucket * (2 if job.stage < 3 else 1) if job.contiguous else 0  # ZeRO-1 and 2 fill one while one is sent
    # A sub-group holds whole tensors: the embedding is one of its own.
    step = min(shard, max(job.sub_group, shape.head_weights / job.ranks)) if job.stage == 3 else shard
    flat = 0 if job.offload_optimizer else step * (4 + (element if element < 4 else 0))  # flattened, then as fp32

    def parts(gradients: float, buckets: float, activations: float, loss: float) -> dict[str, float]:
        return {
            "weights": on_gpu + whole,
            "gradients": gradients,
            "optimizer": optimizer,
            "buckets": buckets,
            "activations": activations,
            "loss": loss,
            "CUDA context": CONTEXT_BYTES + NCCL_BYTES * (job.ranks > 1),
        }

    # Backward's beginning, with all activations, or its end, with a bucket full of gradients.
    begins = parts(accumulated, gathered + buffers, kept + at_work, head_gradient)
    full = buffers or (2 * bucket if job.stage == 3 else bucket)  # ZeRO-3 puts them together in a copy
    last_layer = kept / shape.layers + at_work if job.bucket < job.trained else 0  # else it is full behind them all
    ending = parts(accumulated, gathered + full, last_layer, 0)
    return Memory(
        {
            "forward": parts(before, gathered, kept, loss_bytes(job, tokens, target_share) + head_gradient),
            "backward": max(begins, ending, key=lambda part: sum(part.values())),
            "optimizer": parts(accumulated if job.stage == 3 else element * shard, flat, 0, 0),
        }
    )


def gathered_bytes(job: Job) -> float:
    """Return the bytes of weights that ZeRO-3 gathers and holds for a while: those live, and the next ones twice.

    Gathered pieces land side by side and are put together in a copy. On one rank the shard is the whole, in place.
    Of 4-bit weights one matrix at a time is unpacked.
    """
    if job.quantised:
        return (job.element + NF4_SCALE_BYTES) * job.shape.hidden * job.shape.intermediate
    apart = job.stage == 3 and (job.ranks > 1 or job.offload_weights)
    if not apart or job.persistent:
        return 0
    following = 2 * min(job.held, job.shape.layer_weights + job.shape.head_weights)
    return job.element * (min(job.held, MAX_LIVE) + following)


def loss_bytes(job: Job, tokens: float, target_share: float) -> float:
    """Return the bytes of the logits of a chunk: fp32, a copy while the softmax is made, those of the chunk before.

    A model that does more to its logits than its head does has them all, with those of the targets twice in fp32.
    """
    if job.shape.whole_logits:
        return tokens * job.shape.vocabulary * (2 * job.element + target_share * (job.element + 8))
    one = tokens * target_share * 4 * job.shape.vocabulary
    return 2 * one if one <= CHUNK_BYTES else 3 * CHUNK_BYTES


def evaluation_bytes(job: Job, tokens: float, target_share: float) -> float:
    """Return the least that evaluation holds: the model as it was and as it becomes is whole on every GPU."""
    context = CONTEXT_BYTES + NCCL_BYTES * (job.ranks > 1)
    return job.element * job.shape.weights + loss_bytes(job, tokens, target_share) + context


@dataclass(frozen=True)
class HostMemory:
    """Bytes in the memory of the machine, over all ranks."""

    offloaded: float  # all the time
    save: float  # the copy that is written while training goes on; with less, training waits for the writing instead
    export: float  # the weights that rank 0 gathers and writes; loaded again to compare, they are a map of the file

    @property
    def needed(self) -> float:
        """Bytes without which the run breaks."""
        return self.offloaded + self.export

    @property
    def usual(self) -> float:
        """Bytes at most if there is room for the copy too."""
        return self.offloaded + max(self.save, self.export)


def host_memory(job: Job) -> HostMemory:
    """Return what the memory of the machine holds.

    Saved are the optimizer's states of what is trained, and below ZeRO-3, whose weights are those states' masters, the
    weights too: 12 and 14 bytes a weight in bf16, as measured.
    """
    offloaded = (ADAM_BYTES + 4 + job.element) * job.trained if job.offload_optimizer else 0  # with both gradients
    return HostMemory(
        offloaded=offloaded + (job.element * job.held if job.offload_weights else 0),
        save=(ADAM_BYTES + job.element * (job.stage < 3)) * job.trained,
        export=job.element * job.shape.weights,
    )


def tokens_that_fit(job: Job, limit_bytes: float, target_share: float, most: int, unit: int = 256) -> int:
    """Return the most tokens, in units and up to `most`, whose micro-step stays within a limit; 0: none does."""
    low, high = 0, -(-most // unit)
    while low < high:
        middle = (low + high + 1) // 2
        if memory(job, middle * unit, target_share, micro_steps=2).peak <= limit_bytes:
            low = middle
        else:
            high = middle - 1
    return min(most, low * unit)


@dataclass(frozen=True)
class Timing:
    """Seconds of a step, and what it moves over the link."""

    computing_s: float  # of all its micro-steps: the GPU, or Python where that takes longer
    python_s: float  # of them, if it were Python alone
    link_bytes: float  # a rank sends in a step
    link_s: float  # they take
    optimizer_s: float
    step_s: float
    tokens_per_second: float  # of all ranks, real ones
    total_s: float


def timing(job: Job, work: Work, rows: Rows) -> Timing:
    """Return how long a step takes, of the usual micro-steps of a run."""
    card, shape = job.card, job.shape
    recomputed = 1 if job.recompute else 0
    tokens, targets = work.micro_tokens, work.tokens_per_step / work.micro_steps * rows.target_share
    passes = 4 if job.lora_rank else 6  # FLOPs a weight and token: forward, the input's gradient, the weights' own
    flops = tokens * shape.matrix_weights * (passes + 2 * recomputed)
    flops += tokens * shape.layers * shape.queries * rows.tokens_per_row * (7 + 2 * recomputed)  # causal attention
    flops += targets * shape.head_weights * passes
    rate = (card.fp32_flops if job.precision == "fp32" else card.matrix_flops) * MATRIX_EFFICIENCY
    times = PASSES + PASSES_RECOMPUTED * recomputed - PASSES_COMPILED * job.compile
    traffic = tokens * shape.layers * job.layer_bytes * times + targets * shape.vocabulary * HEAD_BYTES
    traffic += job.quantised * (NF4_BYTES + job.element) * (2 + recomputed)  # unpacked, forward and backward
    layer_python_s = HOST_LAYER_S
    if job.lora_rank:
        traffic += tokens * job.element * shape.lora_weights(1) * ADAPTER_PASSES
        layer_python_s += HOST_ADAPTER_S + HOST_UNPACK_S * (job.base_bits == 4)
    if job.stage == 3 and job.ranks > 1 and not job.persistent:
        layer_python_s += HOST_GATHER_S
    python_s = HOST_S + layer_python_s * shape.layers * (1 + recomputed / 3)
    busy_s = ((flops / rate + traffic / card.bytes_per_s) ** TOGETHER + python_s**TOGETHER) ** (1 / TOGETHER)

    in_micro, in_step = link_bytes(job)
    speed = card.link_gb_s * 1e9
    if job.stage < 3:
        speed *= REDUCED_TO_ALL
    link_micro_s, link_step_s = in_micro / speed, in_step / speed
    shard, offload = job.trained / job.ranks, OFFLOAD_GB_S * 1e9
    if job.offload_optimizer:
        link_micro_s += job.element * shard / offload
        optimizer_s = job.trained * HOST_ADAM_BYTES / HOST_BYTES_PER_S + job.element * shard / offload
    else:
        optimizer_s = shard * OPTIMIZER_BYTES / card.bytes_per_s
    if job.offload_weights:
        link_micro_s += 2 * job.element * job.held / job.ranks / offload
    micro_s = max(busy_s, link_micro_s) + (1 - OVERLAP) * min(busy_s, link_micro_s)
    optimizer_s += STEP_HOST_S
    step_s = work.micro_steps * micro_s + link_step_s + optimizer_s
    return Timing(
        computing_s=work.micro_steps * busy_s,
        python_s=work.micro_steps * python_s,
        link_bytes=work.micro_steps * in_micro + in_step,
        link_s=work.micro_steps * link_micro_s + link_step_s,
        optimizer_s=optimizer_s,
        step_s=step_s,
        tokens_per_second=work.tokens_per_step * job.ranks / step_s,
        total_s=work.tokens / (work.tokens_per_step * job.ranks) * step_s,
    )


def link_bytes(job: Job) -> tuple[float, float]:
    """Return the bytes that a rank moves over the link in each micro-step, and once a step.

    Scattering or gathering n bytes over R ranks moves n (R - 1) / R of them over each rank's link. ZeRO-1 and 2 reduce
    gradients to all ranks, which is twice that, and keep their part.
    """
    share = (job.ranks - 1) / job.ranks * job.element
    gradients, trained, held = share * job.trained, share * job.trained, share * job.held
    if job.stage == 1:  # gradients are summed up on each rank, and reduced once
        return 0, 2 * gradients + trained
    if job.stage == 2:
        return 2 * gradients, trained
    if job.persistent:
        return gradients, trained
    return gradients + 2 * held, 0  # gathered for forward and for backward
