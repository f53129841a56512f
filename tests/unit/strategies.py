"""What property tests draw: DeepSpeed's files, right and wrong; and what every error about a setting looks like."""

import re

from hypothesis import strategies as st

NAMED = re.compile(r"(?:[A-Z_]{2,}=|\.env|\.env:\d+: |.*: no such setting|\S*runs?/\S+: )")

KEYS = st.one_of(
    st.sampled_from(["zero_optimization", "stage", "bf16", "fp16", "enabled", "train_batch_size", "gradient_clipping",
                     "gradient_accumulation_steps", "train_micro_batch_size_per_gpu", "optimizer", "scheduler",
                     "offload_optimizer", "device", "reduce_bucket_size", "loss_scale"]),
    st.text(max_size=5),
)  # fmt: skip
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.integers(0, 4), st.floats(), st.text(max_size=8),
                   st.just("auto"), st.integers(10**20, 10**21))  # fmt: skip
VALUES = st.recursive(
    LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)), max_leaves=8
)
