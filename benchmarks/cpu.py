"""Packed against padded on the CPU: `make bench`. Ratios of one run, which any machine can repeat.

The rows are random words, about as long as GSM8K's, or those of a file or folder: `python -m benchmarks.cpu DATASET`.
The variants take turns, so that other load on the machine affects both.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

os.environ |= {"DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false", "GLOO_SOCKET_IFNAME": "lo"}

from benchmarks import steps, work
from sft.errors import SftError

ROUNDS, WARMUP, STEPS = 3, 2, 8
WORK = {"model_name": "tiny", "global_batch_size": 32, "batch_size": 32}
VARIANTS = {"packed": {"packing": 1}, "padded": {"packing": 0}}


def main() -> None:
    """Print the median of each variant, and their ratio."""
    steps.be_quiet()
    speeds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(sys.argv[1]) if len(sys.argv) > 1 else work.write_rows(Path(scratch) / "train.jsonl")
        paths = {"dataset": data, "data_path": Path(scratch) / "data", "model_path": Path(scratch) / "models"}
        for _ in range(ROUNDS):
            for name, given in VARIANTS.items():
                found = steps.measured(steps.settings_of("cpu", paths | WORK | given), WARMUP, STEPS)
                speeds[name].append(steps.speed_of(found))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    its_work = f"{WORK['global_batch_size']} rows a step of the model {WORK['model_name']}"
    print(f"{its_work}; rows of {found['mean_tokens']} tokens on average, the longest {found['longest']}")
    for name, values in speeds.items():
        turns = ", ".join(f"{value:,.0f}" for value in values)
        print(f"{name}: {medians[name]:,.0f} tokens/s, padding not counted (the median of {turns})")
    print(f"packed is {medians['packed'] / medians['padded']:.1f} times as fast as padded")


if __name__ == "__main__":
    try:
        main()
    except SftError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
