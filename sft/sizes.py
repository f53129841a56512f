"""Sizes that decide how much memory a step takes: the trainer uses them, and the plan computes with them."""

from __future__ import annotations

# Weights that take no more than this share of a card stay whole on every rank between steps: ZeRO-3 then gathers them
# once a step instead of twice a micro-step.
PERSISTENT_SHARE = 0.15
BUCKETS = 8  # reductions that a backward pass is cut into, so that they overlap with it
SMALLEST_BUCKET, LARGEST_BUCKET = 1_000_000, 200_000_000  # elements
# Elements whose optimizer step is done together under ZeRO-3. Their gradients exist twice more for that while,
# flattened and as fp32: with DeepSpeed's 1e9 that is 5.6 GiB for the 1B model on one card, which 24 GB do not have.
SUB_GROUP = 100_000_000
# Bytes of one chunk's fp32 logits. Larger ones are no faster (benchmarks/README.md), smaller ones are.
CHUNK_BYTES = 512 * 2**20


def reduce_bucket(weights: int) -> int:
    """Return the elements that are reduced together, of so many trained weights."""
    return max(SMALLEST_BUCKET, min(LARGEST_BUCKET, weights // BUCKETS))
