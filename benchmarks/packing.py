"""Packed against padded steps for families whose attention or layers are special: `python -m benchmarks.packing`.

One JSON line for each shape and variant: models with random weights and random rows that are about as long as GSM8K's.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from benchmarks import steps, work
from sft.settings.stages import Effective, without_plan
from sft.trainer.model import tiny

SHAPES = ("gemma-2-1b", "gpt-oss-1b", "qwen-3.5-0.8b", "granite-4-h-1b")
WORK = {"global_batch_size": 64, "gradient_checkpointing": 0, "evaluate": 0, "learning_rate": 1e-5}
VARIANTS: dict[str, dict[str, object]] = {
    "packed": {"packing": 1, "max_tokens_per_micro_step": 16384},
    "padded, 16 rows a micro-step": {"packing": 0, "batch_size": 16},
    "padded, all 64 rows of a step": {"packing": 0, "batch_size": 64},
}


def main() -> None:
    """Measure every shape and variant that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packing", description=__doc__)
    parser.add_argument("shapes", nargs="*", default=SHAPES, help="names of files in benchmarks/shapes")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--scratch", type=Path, default=Path("benchmarks-scratch"))
    parser.add_argument("--variants", nargs="*", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--set", nargs="*", default=[], help="NAME=value: other settings, for every variant")
    asked = parser.parse_args()
    steps.be_quiet()
    asked.scratch.mkdir(parents=True, exist_ok=True)
    rows = work.write_rows(asked.scratch / "train.jsonl")
    for shape in asked.shapes:
        for name in asked.variants:
            found = measured(shape, rows, VARIANTS[name] | steps.given(" ".join(asked.set)), asked)
            print(json.dumps({"shape": shape, "variant": name} | found), flush=True)


def measured(shape: str, rows: Path, variant: dict[str, object], asked: argparse.Namespace) -> dict[str, object]:
    """Return the measurements of a variant, or that it failed: out of memory, say."""
    folder = asked.scratch / shape
    if not folder.exists():
        steps.forked(1, partial(make, shape, rows, folder, asked.device))
    paths = {"model_name": folder, "dataset": rows, "data_path": asked.scratch / "data"}
    settings = steps.settings_of(asked.device, paths | WORK | variant)
    steps.forked(1, partial(work.prepared, settings))
    effective = Effective.of(without_plan(settings))
    try:
        found: dict[str, object] = steps.forked(1, partial(steps.measure, effective, asked.warmup, asked.steps))
    except SystemExit as failed:
        return {"failed": str(failed)}
    return found


def make(shape: str, rows: Path, folder: Path, device: str) -> None:
    """Write a model in a shape, with the random weights that its family starts with, and a tokenizer."""
    import torch
    import transformers

    content = json.loads((Path(__file__).parent / "shapes" / f"{shape}.json").read_text())
    config = transformers.AutoConfig.for_model(content.pop("model_type"), **content)
    tiny.make(folder, rows.read_text().splitlines(), seed=0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for name in ("bos", "eos", "pad"):
        setattr(config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)


if __name__ == "__main__":
    main()
