"""How long a step takes: computing, moving data over the link, and the optimizer.

The constants were fitted to one and two H100s (benchmarks/README.md): 15.0 us a token of the 1B model, and 72 ms a step
beside that. tests/unit/plan/test_memory_and_time.py compares the result with the measured speeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sft.host.plan.job import NF4_BYTES, Job
from sft.host.plan.workload import Rows, Work

MATRIX_EFFICIENCY = 0.82  # of a model's matrix products, against one large product
# Memory traffic of a layer, forward and backward, in multiples of the activations that it keeps.
PASSES = 8.0
PASSES_RECOMPUTED = 3.0  # more if they are recomputed: the forward pass again
PASSES_COMPILED = 1.0  # fewer with torch.compile
HEAD_BYTES = 50  # traffic per logit: bf16 and fp32 copies, softmax, two matrix products (sft/trainer/loss.py)
# Traffic per weight of AdamW: 45 ms of GPU for 1.236e9 weights. With 16-bit states: counted; steps agree within 6 %.
OPTIMIZER_BYTES = {32: 110, 16: 220}
ADAPTER_PASSES = 6.0  # memory traffic of adapters, in multiples of their inputs and outputs
STEP_HOST_S = 0.027  # a step in which the GPU waits: for the norm's value, the optimizer's start, the loss
# The time of Python: of one micro-step, and of each layer in it (121 ms for 16 layers). More for each layer ...
HOST_S, HOST_LAYER_S = 0.006, 0.0072
HOST_ADAPTER_S = 0.0055  # ... with adapters on its matrices
HOST_UNPACK_S = 0.003  # ... with matrices in 4 bits
HOST_GATHER_S = 0.002  # ... whose weights are gathered in every micro-step
# Recomputing runs forward twice: 1.1 to 1.7 times as long with 1B to 8B, most with matrices in 4 bits. What is measured
# of Python differs by a third from one machine to another of the same kind.
HOST_RECOMPUTED = 0.45
# Of each layer once a step: ZeRO-3 releases the weights, and gathers the new ones. On four H200s a step of 220 ms took
# 50 ms longer with it than with ZeRO-2.
HOST_RELEASE_S = 0.002
TOGETHER = 4  # norm of the GPU's time and Python's: the longer one hides the other, if they are about equal both wait
# Speed of an all-reduce against scattering and gathering: 240 instead of 178 GB/s on two H100s, 325 instead of 259 on
# four H200s. Through host memory they are equal: 25.5 and 24.3 there.
REDUCED_TO_ALL = 1.35
# A collective passes all ranks one after the other, however little it moves. ASSUMED: NVLink or PCIe, and RDMA. With
# TCP a hop between hosts takes several times as long. It counts from about a hundred ranks on.
HOP_S, HOST_HOP_S = 2e-6, 10e-6
GATHERED_TOGETHER = 500_000_000  # weights that are gathered at once after a step (allgather_bucket_size)
OVERLAP = 0.5  # share of the shorter of computing and communicating that the longer one hides (two H100s)
# Offload: traffic of the machine's memory per weight in Adam, and what all ranks of a machine share. ASSUMED.
HOST_ADAM_BYTES, HOST_BYTES_PER_S = 36, 60e9


@dataclass(frozen=True)
class Timing:
    """Seconds of a step, and what it moves over the link."""

    computing_s: float  # all micro-steps: the GPU's time, or Python's if that is longer
    python_s: float  # all micro-steps, if Python were all there is
    link_bytes: float  # that a rank sends in a step
    wire_bytes: float  # that each host's network card sends in a step; 0: one host
    link_s: float
    optimizer_s: float
    step_s: float
    tokens_per_second: float  # of all ranks, without padding
    total_s: float


def step_timing(job: Job, work: Work, rows: Rows) -> Timing:
    """Return how long a step takes with the usual micro-steps of a run."""
    python_s = python_seconds(job) * job.slower
    busy_s = ((gpu_seconds(job, work, rows) * job.slower) ** TOGETHER + python_s**TOGETHER) ** (1 / TOGETHER)
    bytes_micro, bytes_step = link_bytes(job)
    inside = inside_bytes(job)
    speed = link_speed(job)
    passes_micro, passes_step = passes(job)
    link_micro_s = (bytes_micro - inside) / speed + inside / (job.card.link_gb_s * 1e9) + offload_seconds(job)
    link_micro_s += passes_micro * ring_seconds(job)
    link_step_s = bytes_step / speed + passes_step * ring_seconds(job)
    overlap = 0.0 if job.in_turns else OVERLAP
    micro_s = max(busy_s, link_micro_s) + (1 - overlap) * min(busy_s, link_micro_s)
    optimizer_s = optimizer_seconds(job) * job.slower
    step_s = work.micro_steps * micro_s + link_step_s + optimizer_s
    return Timing(
        computing_s=work.micro_steps * busy_s,
        python_s=work.micro_steps * python_s,
        link_bytes=work.micro_steps * bytes_micro + bytes_step,
        wire_bytes=work.micro_steps * (bytes_micro - inside) + bytes_step if job.hosts > 1 else 0.0,
        link_s=work.micro_steps * link_micro_s + link_step_s,
        optimizer_s=optimizer_s,
        step_s=step_s,
        tokens_per_second=work.tokens_per_step * job.ranks / step_s,
        total_s=work.tokens / (work.tokens_per_step * job.ranks) * step_s,
    )


def gpu_seconds(job: Job, work: Work, rows: Rows) -> float:
    """Return the seconds that a GPU computes in one micro-step: matrix products, and traffic of its memory."""
    card, shape = job.card, job.shape
    recomputed = 1 if job.recompute else 0
    tokens, targets = work.micro_tokens, work.tokens_per_step / work.micro_steps * rows.target_share
    passes = 4 if job.lora_rank else 6  # FLOPs per weight and token: forward, the input's gradient, the weights' own
    flops = tokens * shape.matrix_weights * (passes + 2 * recomputed)
    flops += tokens * shape.layers * shape.queries * rows.tokens_per_row * (7 + 2 * recomputed)  # causal attention
    flops += targets * shape.head_weights * passes
    rate = (card.fp32_flops if job.precision == "fp32" else card.matrix_flops) * MATRIX_EFFICIENCY
    times = PASSES + PASSES_RECOMPUTED * recomputed - PASSES_COMPILED * job.compile
    traffic = tokens * job.all_layers_bytes * times + targets * shape.vocabulary * HEAD_BYTES
    # Mixing takes four times its forward pass: that, the same in backward, and backward itself. Recomputed, once more.
    traffic += tokens * shape.mixers.layers * shape.mixers.again * shape.mixers.passes * (1 + recomputed / 4)
    traffic += job.quantised * (NF4_BYTES + job.element) * (2 + recomputed)  # unpacked, forward and backward
    if job.lora_rank:
        traffic += tokens * job.element * shape.lora_weights(1) * ADAPTER_PASSES
    return flops / rate + traffic / card.bytes_per_s


def python_seconds(job: Job) -> float:
    """Return the seconds that Python takes to start the kernels of one micro-step."""
    layer_s = HOST_LAYER_S
    if job.lora_rank:
        layer_s += HOST_ADAPTER_S + HOST_UNPACK_S * (job.base_bits == 4)
    if job.stage == 3 and job.ranks > 1 and not job.persistent:
        layer_s += HOST_GATHER_S
    layers_s = layer_s * job.shape.layers + job.shape.mixers.python_s * job.shape.mixers.layers
    return HOST_S + layers_s * (1 + HOST_RECOMPUTED * job.recompute)


def offload_seconds(job: Job) -> float:
    """Return the seconds of one micro-step in which gradients and weights move between a GPU and the machine."""
    gradients = job.element * job.trained / job.ranks if job.offload_optimizer else 0
    weights = 2 * job.element * job.weights / job.ranks if job.offload_weights else 0
    return (gradients + weights) / (job.card.host_gb_s * 1e9)


def optimizer_seconds(job: Job) -> float:
    """Return the seconds of the optimizer's part of a step."""
    shard = job.trained / job.ranks
    if job.offload_optimizer:
        back_s = job.element * shard / (job.card.host_gb_s * 1e9)
        return job.trained * HOST_ADAM_BYTES / HOST_BYTES_PER_S + back_s + STEP_HOST_S
    release_s = HOST_RELEASE_S * job.shape.layers if job.stage == 3 and job.ranks > 1 else 0.0
    return shard * OPTIMIZER_BYTES[job.optimizer_bits] / job.card.bytes_per_s + STEP_HOST_S + release_s


def link_speed(job: Job) -> float:
    """Return the bytes/s of bus bandwidth that the job's collectives reach: all-reduce below ZeRO-3."""
    gather = job.card.link_gb_s
    all_reduce = job.card.all_reduce_gb_s or gather * (REDUCED_TO_ALL if job.card.has_peers else 1.0)
    speed = (all_reduce if job.stage < 3 else gather) * 1e9
    return min(speed, job.wire_gb_s * 1e9) if job.hosts > 1 else speed


def ring_seconds(job: Job) -> float:
    """Return the seconds that the smallest message takes once around all ranks."""
    return (job.ranks - job.hosts) * HOP_S + (job.hosts if job.hosts > 1 else 0) * HOST_HOP_S


def passes(job: Job) -> tuple[int, int]:
    """Return how often messages go around all ranks in each micro-step, and once a step: twice for an all-reduce."""
    buckets = math.ceil(job.trained / job.bucket) if job.bucket else 1
    after = math.ceil(job.trained / GATHERED_TOGETHER)
    if job.stage == 1:
        return 0, 2 * buckets + after
    if job.stage == 2:
        return 2 * buckets, after
    if job.persistent:
        return buckets, after
    gathers = 1 if job.keeps_gathers_inside else 2
    return buckets + gathers * job.shape.layers, 0


def inside_bytes(job: Job) -> float:
    """Return the bytes of a micro-step that a rank moves without the network: hpZ's gathers for backward.

    They are counted as those of a gather over all ranks, a little more than they are.
    """
    return (job.ranks - 1) / job.ranks * job.element * job.weights if job.keeps_gathers_inside else 0.0


def link_bytes(job: Job) -> tuple[float, float]:
    """Return the bytes that a rank moves over the link in each micro-step, and once a step.

    Scattering or gathering n bytes over R ranks moves n (R - 1) / R of them over each rank's link. ZeRO-1 and 2 reduce
    gradients to all ranks, which is twice that, and keep their part.
    """
    share = (job.ranks - 1) / job.ranks * job.element
    gradients, trained, weights = share * job.trained, share * job.trained, share * job.weights
    if job.stage == 1:  # each rank sums up gradients, which are reduced once
        return 0, 2 * gradients + trained
    if job.stage == 2:
        return 2 * gradients, trained
    if job.persistent:
        return gradients, trained
    return gradients + 2 * weights, 0  # gathered for forward and for backward
