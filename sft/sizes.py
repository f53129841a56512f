"""Sizes that decide how much memory a step takes: the trainer uses them, and the plan computes with them."""

from __future__ import annotations

# A model whose weights need no more than this share of a card stays whole on every rank between steps: ZeRO-3 then
# gathers it once a step instead of twice a micro-step.
PERSISTENT_SHARE = 0.15
BUCKETS = 8  # reductions per backward pass, so that they overlap with it
SMALLEST_BUCKET, LARGEST_BUCKET = 1_000_000, 200_000_000  # elements
# Elements of gathered weights that ZeRO-3 keeps: DeepSpeed's default. With 16-bit states: a layer and the head.
MAX_LIVE = 1_000_000_000
# Elements that ZeRO-3's optimizer updates together. It copies their gradients twice, flattened and as fp32: with
# DeepSpeed's default of 1e9 that is 5.6 GiB for the 1B model on one card, too much for 24 GB.
SUB_GROUP = 100_000_000
# Elements that AdamW with 16-bit states (sft/trainer/optimizer.py) has in fp32 at a time.
OPTIMIZER_PIECE = 2**23
# Bytes of the fp32 logits that the loss computes at once. Larger chunks are no faster, smaller ones are slower
# (benchmarks/README.md).
CHUNK_BYTES = 512 * 2**20
# With 16-bit states memory is scarcer than time. A larger micro-step saves more than the loss then loses.
SMALL_CHUNK_BYTES = 128 * 2**20


def reduce_bucket(weights: int) -> int:
    """Return how many elements are reduced together, for a number of trained weights."""
    return max(SMALLEST_BUCKET, min(LARGEST_BUCKET, weights // BUCKETS))
