"""How much memory a run needs: of each GPU at three moments of a step, and of the machine.

Every formula follows from what the trainer and DeepSpeed 0.19.8 do. What was fitted to measurements is a constant with
its source. tests/unit/plan/test_memory_and_time.py compares both with the measured figures in benchmarks/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

from sft.host.plan.job import GIB, Job
from sft.sizes import CHUNK_BYTES, OPTIMIZER_PIECE, SMALL_CHUNK_BYTES

Moment = Literal["forward", "backward", "optimizer"]

# Copies of a weight that AdamW has: its fp32 master and two moments, or the moments alone. 16-bit weights are their own
# master.
ADAM_COPIES = {32: 3, 16: 2}
# fp32 copies of a piece that 16-bit states are updated in: states and gradient, a random number and three results.
PIECE_COPIES = 8
NF4_SCALE_BYTES = 4 / 64  # per weight of a matrix that is being unpacked: its scales in fp32
# Outside the allocator, so not in mem/peak_gib: driver, kernels and cuBLAS; NCCL's buffers. ASSUMED.
CONTEXT_BYTES, NCCL_BYTES = 0.6 * GIB, 0.4 * GIB


@dataclass(frozen=True)
class Parts:
    """What is in a GPU's memory at one moment, in bytes."""

    weights: float
    gradients: float
    optimizer: float
    buckets: float  # of gradients that are reduced together, and gathered weights
    activations: float
    loss: float
    context: float  # CUDA's and NCCL's, outside torch's allocator

    @property
    def total(self) -> float:
        return sum(self.by_name().values())

    def by_name(self) -> dict[str, float]:
        """Return the bytes by the names that people see, the order of the plan's table."""
        return {NAMES.get(part.name, part.name): float(getattr(self, part.name)) for part in fields(self)}


NAMES = {"context": "CUDA context"}


@dataclass(frozen=True)
class GpuMemory:
    """What is in one GPU's memory at the three moments of a step that may be its peak."""

    moments: Mapping[Moment, Parts]

    @property
    def peak_moment(self) -> Moment:
        return max(self.moments, key=lambda moment: self.moments[moment].total)

    @property
    def peak(self) -> float:
        """Bytes at the peak, everything counted."""
        return self.moments[self.peak_moment].total

    @property
    def allocated(self) -> float:
        """Bytes at the peak that torch's allocator counts, as `mem/peak_gib` does."""
        return self.peak - self.moments[self.peak_moment].context


def gpu_memory(job: Job, tokens: float, target_share: float, micro_steps: int) -> GpuMemory:
    """Return what a GPU holds in a step of `micro_steps`, the largest of which has `tokens` tokens."""
    if job.stage == 1 and micro_steps == 1:
        job = replace(job, stage=2)  # it has nothing to sum up: each gradient is reduced, and the rank's part kept
    always = Parts(
        weights=resident_weight_bytes(job),
        gradients=0,
        optimizer=0 if job.offload_optimizer else adam_bytes(job) * job.trained / job.ranks,
        buckets=0,
        activations=0,
        loss=0,
        context=context_bytes(job),
    )
    return GpuMemory(
        {
            "forward": in_forward(job, always, tokens, target_share, micro_steps),
            "backward": in_backward(job, always, tokens, target_share),
            "optimizer": in_optimizer(job, always),
        }
    )


def in_forward(job: Job, always: Parts, tokens: float, target_share: float, micro_steps: int) -> Parts:
    """Return what is in memory while the loss is computed."""
    # ZeRO-3 always has room for the gradients of its shard, ZeRO-1 and 2 from the first micro-step on.
    has_gradients = job.stage == 3 or micro_steps > 1
    return replace(
        always,
        gradients=gradient_bytes(job) if has_gradients else 0,
        buckets=gathered_bytes(job),
        activations=kept_bytes(job, tokens, target_share) + job.adapted_experts_bytes[1],
        loss=loss_bytes(job, tokens, target_share) + head_gradient_bytes(job),
    )


def in_backward(job: Job, always: Parts, tokens: float, target_share: float) -> Parts:
    """Return the peak of backward: its beginning, with all activations, or its end, with a bucket full of gradients."""
    gradients, gathered = gradient_bytes(job), gathered_bytes(job)
    kept = kept_bytes(job, tokens, target_share)
    one_layers_experts, kept_experts = job.adapted_experts_bytes
    kept += kept_experts
    at_work = 2 * one_layers_experts + tokens * (job.backward_bytes + (job.largest_layer_bytes if job.recompute else 0))
    bucket = job.element * min(job.trained, job.bucket)
    buffers = bucket * (2 if job.stage < 3 else 1) if job.contiguous else 0  # ZeRO-1 and 2 fill one while sending one
    begins = replace(
        always,
        gradients=gradients,
        buckets=gathered + buffers,
        activations=kept + at_work,
        loss=head_gradient_bytes(job),
    )
    full = buffers or (2 * bucket if job.stage == 3 else bucket)  # ZeRO-3 joins them in a copy
    last_layer = (
        kept / job.shape.layers + at_work if job.bucket < job.trained else 0
    )  # else it is full after all layers
    ends = replace(always, gradients=gradients, buckets=gathered + full, activations=last_layer)
    return max(begins, ends, key=lambda parts: parts.total)


def in_optimizer(job: Job, always: Parts) -> Parts:
    """Return what is in memory while the optimizer updates the weights."""
    shard = job.trained / job.ranks
    gradients = gradient_bytes(job) if job.stage == 3 else job.element * shard
    return replace(always, gradients=gradients, buckets=flattened_bytes(job, shard))


def adam_bytes(job: Job) -> int:
    """Return the bytes per trained weight that AdamW has beside the weight itself."""
    return ADAM_COPIES[job.optimizer_bits] * job.optimizer_bits // 8


def gradient_bytes(job: Job) -> float:
    """Return the bytes of the gradients that a rank accumulates: those of its shard; ZeRO-1 shards none."""
    if job.offload_optimizer:
        return 0
    return job.element * (job.trained if job.stage == 1 else job.trained / job.ranks)


def head_gradient_bytes(job: Job) -> float:
    """Return the bytes of the head's gradient, which the loss computes with its own (sft/trainer/loss.py)."""
    return 0 if job.lora_rank else job.element * job.shape.head_weights


def resident_weight_bytes(job: Job) -> float:
    """Return the bytes of weights that are on a GPU all the time."""
    shard = 0 if job.offload_weights else job.weight_bytes / (job.ranks if job.stage == 3 else 1)
    secondary = job.element * job.weights / job.hpz if job.keeps_gathers_inside else 0
    return shard + job.element * job.weights * job.persistent + secondary


def kept_bytes(job: Job, tokens: float, target_share: float) -> float:
    """Return the bytes of activations that forward keeps for backward."""
    hidden_bytes = job.element * job.shape.hidden
    ends = hidden_bytes * (2 + 2 * target_share)  # around the last norm, and the loss's input and gradient
    return tokens * (ends + (job.shape.layers * hidden_bytes if job.recompute else job.all_layers_bytes))


def flattened_bytes(job: Job, shard: float) -> float:
    """Return the bytes of the gradients that an optimizer step copies, flattened and then as fp32.

    ZeRO-3 takes a sub-group at a time. A sub-group holds whole tensors: the embedding is one of its own. With 16-bit
    states the copy is flattened only, and fp32 is a piece of everything.
    """
    if job.offload_optimizer:
        return 0
    step = min(shard, max(job.sub_group, job.shape.largest_tensor / job.ranks)) if job.stage == 3 else shard
    if job.optimizer_bits == 16:
        return step * job.element + min(step, OPTIMIZER_PIECE) * 4 * PIECE_COPIES
    return step * (4 + (job.element if job.element < 4 else 0))


def context_bytes(job: Job) -> float:
    """Return the bytes outside torch's allocator."""
    return CONTEXT_BYTES + NCCL_BYTES * (job.ranks > 1)


def gathered_bytes(job: Job) -> float:
    """Return the bytes of weights that ZeRO-3 gathers and keeps for a while: the live ones, and the next ones.

    On four ranks 3B and 8B took no more than the live ones, 1B on two ranks the next ones twice. On one rank the shard
    is the whole, in place. A quantised model unpacks one matrix at a time instead.
    """
    if job.quantised:
        return (job.element + NF4_SCALE_BYTES) * job.shape.hidden * job.shape.intermediate
    apart = job.stage == 3 and (job.ranks > 1 or job.offload_weights)
    if not apart or job.persistent:
        return 0
    following = min(job.weights, job.shape.largest_layer + job.shape.head_weights)
    return job.element * (min(job.weights, job.max_live) + following)


def loss_bytes(job: Job, tokens: float, target_share: float) -> float:
    """Return the bytes of one chunk's logits: fp32, a copy during the softmax, and those of the chunk before.

    A model that scales or caps its logits has all of them at once, and those of the targets twice more in fp32.
    """
    if job.shape.whole_logits:
        return tokens * job.shape.vocabulary * (2 * job.element + target_share * (job.element + 8))
    one = tokens * target_share * 4 * job.shape.vocabulary
    chunk = SMALL_CHUNK_BYTES if job.optimizer_bits == 16 else CHUNK_BYTES
    return 2 * one if one <= chunk else 3 * chunk


def evaluation_bytes(job: Job, tokens: float, target_share: float) -> float:
    """Return the least bytes that evaluation needs: every GPU then holds the whole model."""
    return job.element * job.shape.weights + loss_bytes(job, tokens, target_share) + context_bytes(job)


def tokens_that_fit(job: Job, limit_bytes: float, target_share: float, most: int, unit: int = 256) -> int:
    """Return the most tokens, a multiple of `unit` or `most`, whose micro-step stays within a limit; 0 if none does."""
    low, high = 0, -(-most // unit)
    while low < high:
        middle = (low + high + 1) // 2
        if gpu_memory(job, middle * unit, target_share, micro_steps=2).peak <= limit_bytes:
            low = middle
        else:
            high = middle - 1
    return min(most, low * unit)


@dataclass(frozen=True)
class HostMemory:
    """Bytes in the machine's memory, over all ranks."""

    offloaded: float  # all the time
    save: float  # the copy that is written while training continues; without room for it, training waits instead
    export: float  # the weights that rank 0 gathers and writes; loaded again to compare, they are a map of the file

    def of_a_host(self, hosts: int) -> HostMemory:
        """Return what each of several hosts holds: its ranks' share, and the export on the first."""
        return replace(self, offloaded=self.offloaded / hosts, save=self.save / hosts)

    @property
    def needed(self) -> float:
        """Bytes without which the run fails."""
        return self.offloaded + self.export

    @property
    def usual(self) -> float:
        """Bytes at the peak if there is room for the copy too."""
        return self.offloaded + max(self.save, self.export)


def host_memory(job: Job) -> HostMemory:
    """Return what a run holds in the machine's memory.

    A checkpoint has the optimizer's states of the trained weights. Under ZeRO-1 and 2 it also has the weights; under
    ZeRO-3 the states contain them. That makes 14 and 12 bytes per weight in bf16, as measured; 8 and 6 with 16-bit
    states, whose master is the weight itself.
    """
    states = 3 * job.optimizer_bits // 8
    offloaded = (states + 4 + job.element) * job.trained if job.offload_optimizer else 0  # with both gradients
    return HostMemory(
        offloaded=offloaded + (job.element * job.weights if job.offload_weights else 0),
        save=(states + job.element * (job.stage < 3)) * job.trained,
        export=job.element * job.shape.weights,
    )
