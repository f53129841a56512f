"""The plan's memory against the measured peak, for models of other kinds than Llama: `python -m benchmarks.families`.

One GPU. Models have random weights in the shapes of benchmarks/shapes/, rows have the lengths of GSM8K's. One JSON line
per variant, and a table at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import work

SHAPES = Path(__file__).with_name("shapes")
ALWAYS = "GLOBAL_BATCH_SIZE=128 MAX_LENGTH=1024 MAX_TOKENS_PER_MICRO_STEP=8192"
# Shape: variants, as for benchmarks.steps.
VARIANTS = {
    "gemma-3-1b": ["DS_CONFIG=zero3 GRADIENT_CHECKPOINTING=1", "DS_CONFIG=zero3 GRADIENT_CHECKPOINTING=0"],
    "qwen3-moe-2b": [
        "DS_CONFIG=zero3 GRADIENT_CHECKPOINTING=1",
        "DS_CONFIG=zero2 LORA_RANK=16 GRADIENT_CHECKPOINTING=0",
    ],
    "qwen3.5-2b": ["DS_CONFIG=zero2 GRADIENT_CHECKPOINTING=1", "DS_CONFIG=zero2 LORA_RANK=16 GRADIENT_CHECKPOINTING=1"],
    "gemma-3-4b": ["DS_CONFIG=zero2 LORA_RANK=16 GRADIENT_CHECKPOINTING=1"],
    "gpt2-xl": ["DS_CONFIG=zero3 GRADIENT_CHECKPOINTING=1", "DS_CONFIG=zero2 GRADIENT_CHECKPOINTING=0"],
}


def main() -> None:
    """Measure every shape, each in a process of its own with a time limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", default=list(VARIANTS))
    parser.add_argument("--folder", type=Path, default=Path("benchmarks-scratch"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--limit-s", type=float, default=170.0, help="for a shape")
    parser.add_argument("--shapes-in", type=Path, default=SHAPES)
    asked = parser.parse_args()
    tokenizer, data = work.rows_and_tokenizer(asked.folder)
    lines: list[dict[str, object]] = []
    for shape in asked.shapes:
        command = [
            sys.executable,
            "-X",
            "faulthandler",
            "-m",
            "benchmarks.steps",
            "--shape",
            str(asked.shapes_in / f"{shape}.json"),
        ]
        command += ["--tokenizer", str(tokenizer), "--data", str(data), "--scratch", str(asked.folder / shape)]
        command += ["--device", asked.device, "--warmup", "3", "--steps", "4"]
        command += [f"{shape}, {variant}: {ALWAYS} {variant}" for variant in VARIANTS[shape]]
        started = time.monotonic()
        out = asked.folder / f"{shape}.jsonl"
        with (
            out.open("w") as file,
            subprocess.Popen(command, stdout=file, start_new_session=True) as process,  # a group of its own: it forks
        ):
            try:
                process.wait(asked.limit_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGABRT)  # Python says where it was
        for line in out.read_text().splitlines():
            print(line, flush=True)
            if line.startswith("{"):
                lines.append(json.loads(line))
        print(f"{shape}: {time.monotonic() - started:.0f} s, exit code {process.returncode}", flush=True)
    table(lines)


def table(lines: list[dict[str, object]]) -> None:
    """Print what was measured and planned."""
    print("| shape, settings | peak GiB: measured, plan | tokens/s: measured, plan |\n|---|---|---|")
    for line in lines:
        peak, speed = line["peak_gib"], line["tokens_per_second"]
        planned, planned_speed = line.get("plan_peak_gib", 0), line.get("plan_tokens_per_second", 0)
        share = f"{planned / peak - 1:+.0%}" if isinstance(peak, float) and isinstance(planned, float) else "?"
        print(f"| {line['variant']} | {peak}, {planned} ({share}) | {speed}, {planned_speed} |")


if __name__ == "__main__":
    main()
