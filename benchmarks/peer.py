"""Compare the speed of TRL with this project's on the same GPU, model and rows: `python -m benchmarks.peer --help`.

Prints a JSON line for each variant, and a table of ratios at the end. TRL (`SFTTrainer`, its public interface) gets the
rows as this project tokenised them, with the same targets, and fp32 weights under bf16 like this project's optimizer.
It draws its batches itself. Tokens are counted without padding, over the same number of steps after the same warm-up.
Every variant runs in a process of its own that is forked from this one.
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

# torch asks NVML whether CUDA is available: if it asked CUDA itself, forked processes could not use it.
os.environ |= {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # TRL would import it, and it initialises CUDA

try:
    import trl
except ImportError as error:
    raise SystemExit(f"{error}; this benchmark alone needs TRL: .venv/bin/pip install trl==1.16.0") from None

import datasets
import torch
import transformers
from trl import SFTConfig, SFTTrainer

from benchmarks import steps, work
from sft.settings.fields import Settings

ZERO3 = {
    "zero_optimization": {"stage": 3, "overlap_comm": True, "contiguous_gradients": True},
    "bf16": {"enabled": "auto"},
    "zero_allow_untested_optimizer": True,
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
}
# What each variant changes of SFTConfig's defaults; by default activations are recomputed.
PACKED: dict[str, object] = {
    "per_device_train_batch_size": 1,
    "packing": True,
    "max_length": 8192,
    "use_liger_kernel": True,
}
THEIRS: dict[str, dict[str, object]] = {
    "TRL, batch 4, ZeRO-3": {"per_device_train_batch_size": 4, "deepspeed": ZERO3},
    "TRL, batch 4, defaults": {"per_device_train_batch_size": 4},
    "TRL, packed 8,192, Liger": PACKED,
    "TRL, packed 8,192, Liger, activations kept": PACKED | {"gradient_checkpointing": False},
}
# GSM8K's rows have 181 tokens on average: enough rows for four full micro-steps.
OURS = {
    "ours, batch 4": "GLOBAL_BATCH_SIZE=4",
    "ours, 4 x 16,384": "GLOBAL_BATCH_SIZE=358 MAX_TOKENS_PER_MICRO_STEP=16384",
    "ours, 4 x 32,768, compiled": "GLOBAL_BATCH_SIZE=716 MAX_TOKENS_PER_MICRO_STEP=32768 COMPILE=1",
}


def main() -> None:
    """Measure the variants of TRL and of this project, and compare them. Exit code 1 if one fails."""
    arguments = steps.options(__doc__).parse_args()
    steps.be_quiet()
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    fixed = steps.its_work(arguments)
    chosen = steps.settings_of(arguments.device, fixed)
    steps.forked(1, lambda: work.prepared(chosen))
    variants: dict[str, Callable[[], dict[str, object]]] = {}
    for name, given in THEIRS.items():
        variants[name] = functools.partial(
            steps.forked, 1, functools.partial(measure, chosen, given, arguments.warmup, arguments.steps)
        )
    for name, text in OURS.items():
        given = steps.given(text)
        if arguments.device == "cpu":
            given.pop("compile", None)  # there every sequence is a part of the program, and compiling never ends
        settings = steps.settings_of(arguments.device, fixed | given)
        variants[name] = functools.partial(steps.measured, settings, arguments.warmup, arguments.steps)
    speeds: dict[str, float] = {}
    for name, variant in variants.items():
        try:
            found = variant()
        except SystemExit as error:  # of this variant alone: the others are measured all the same
            found = {"error": str(error)}
        speeds[name] = steps.speed_of(found)
        print(json.dumps({"variant": name} | found), flush=True)
    print("\n".join(table(speeds)), flush=True)
    if any(map(math.isnan, speeds.values())):
        raise SystemExit(1)


def table(speeds: dict[str, float]) -> list[str]:
    """Return the lines of a Markdown table: the tokens/s of each variant, and the ratio of ours to each of TRL's."""
    lines = ["", "| | real tokens/s | " + " | ".join(f"over {name}" for name in THEIRS) + " |"]
    lines.append("|---" * (len(THEIRS) + 2) + "|")
    for name, speed in speeds.items():
        ratios = [f"{speed / speeds[other]:.2f}" for other in THEIRS]
        lines.append(f"| {name} | {speed:,.0f} | " + " | ".join(ratios) + " |")
    return lines


class Counting(SFTTrainer):
    """TRL's trainer, which counts the tokens of each step without padding."""

    def training_step(self, model: Any, inputs: dict[str, torch.Tensor], *rest: Any, **named: Any) -> torch.Tensor:
        if "attention_mask" in inputs:
            self.tokens.append(inputs["attention_mask"].sum())
        else:  # packed: one line of sequences, all of it real but for padding at its end
            self.tokens.append((inputs["input_ids"] != self.processing_class.pad_token_id).sum())
        found: torch.Tensor = super().training_step(model, inputs, *rest, **named)
        return found

    @property
    def tokens(self) -> list[torch.Tensor]:
        """Count the tokens of each step on the device, so that counting does not wait for it."""
        counts: list[torch.Tensor] = self.__dict__.setdefault("_tokens", [])
        return counts


class Timing(transformers.TrainerCallback):
    """Measures the time from the end of the warm-up."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.started = warmup, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock after the warm-up."""
        if state.global_step == self.warmup:
            settle()
            self.started = time.perf_counter()


def settle() -> None:
    """Wait until the GPU is idle."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(settings: Settings, given: dict[str, object], warmup: int, number: int) -> dict[str, object]:
    """Train some steps with TRL and return their time and memory."""
    cuda = settings.device == "cuda"
    if "deepspeed" not in given:  # as a user starts it: without a launcher, which would wrap the model once more
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            del os.environ[name]
    path, rows = work.prepared(settings)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for ids, is_target in rows.take(range(len(rows))):  # type: ignore[arg-type]
        columns["input_ids"].append(ids.tolist())
        columns["labels"].append([int(token) if wanted else -100 for token, wanted in zip(ids, is_target, strict=True)])
    timing = Timing(warmup)
    liger = cuda and given.get("use_liger_kernel", False)  # kernels for GPUs
    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(
            output_dir=scratch, max_steps=warmup + number, learning_rate=settings.peak_learning_rate, bf16=cuda,
            use_cpu=not cuda, report_to="none", save_strategy="no", disable_tqdm=True,
            **given | {"use_liger_kernel": liger},
        )  # fmt: skip
        trainer = Counting(
            model=model,
            args=config,
            train_dataset=datasets.Dataset.from_dict(columns),
            processing_class=tokenizer,
            callbacks=[timing],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        result = trainer.train()
        settle()
        seconds = time.perf_counter() - timing.started
    counts = [int(count) for count in trainer.tokens]
    assert len(counts) == warmup + number, "a step is one batch here"
    tokens = sum(counts[warmup:])
    return {
        "tokens_per_second": round(tokens / seconds),
        "step_ms": round(1000 * seconds / number, 1),
        "tokens_per_step": round(tokens / number),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None,
        "mean_loss": round(result.training_loss, 5),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "versions": f"trl {trl.__version__}, torch {torch.__version__}, transformers {transformers.__version__}",
    }


if __name__ == "__main__":
    main()
