"""Packed against padded on the CPU: `make bench`. Ratios of one run, which any machine can repeat.

The rows are random words, about as long as GSM8K's, or those of a file or folder: `python -m benchmarks.cpu DATASET`.
The variants take turns, so that other load on the machine affects both.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path

os.environ |= {"DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false", "GLOO_SOCKET_IFNAME": "lo"}

from benchmarks import steps

ROWS, ROUNDS, WARMUP, STEPS = 2000, 3, 2, 8
WORK = {"model_name": "tiny", "global_batch_size": 32, "batch_size": 32}
VARIANTS = {"packed": {"packing": 1}, "padded": {"packing": 0}}


def main() -> None:
    """Print the median of each variant, and their ratio."""
    steps.be_quiet()
    speeds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(sys.argv[1]) if len(sys.argv) > 1 else write_rows(Path(scratch) / "train.jsonl")
        paths = {"dataset": data, "data_path": Path(scratch) / "data", "model_path": Path(scratch) / "models"}
        for _ in range(ROUNDS):
            for name, given in VARIANTS.items():
                found = steps.measured(steps.settings_of("cpu", paths | WORK | given), WARMUP, STEPS)
                speeds[name].append(steps.speed_of(found))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print(f"rows of {found['mean_tokens']} tokens on average, the longest {found['longest']}; {WORK}")
    for name, values in speeds.items():
        print(
            f"{name}: {medians[name]:,.0f} tokens/s without padding ({', '.join(f'{value:,.0f}' for value in values)})"
        )
    print(f"packed over padded: {medians['packed'] / medians['padded']:.1f}x")


def write_rows(path: Path) -> Path:
    """Write rows of random words whose lengths vary like GSM8K's; return the file."""
    rng = random.Random(0)
    words = [f"{first}{second}" for first in ("ba", "co", "du", "fi", "lo", "me") for second in ("n", "rt", "st", "x")]
    with path.open("w") as file:
        for _ in range(ROWS):
            length = min(550, int(rng.gammavariate(5.5, 32)))
            texts = [" ".join(rng.choices(words, k=max(2, int(length * share)))) for share in (0.45, 0.55)]
            file.write(json.dumps({"question": texts[0], "answer": texts[1]}) + "\n")
    return path


if __name__ == "__main__":
    main()
