"""Train some micro-steps of small Llamas whose gradients DeepSpeed keeps, or loses; print what the dry run finds.

A program for each rank, with the ranks' usual environment and an empty folder for all of them in argv[1]. It prints, as
JSON, for each case: reasons (of Misfits), lost and without (of the dry run), norm (of a step), plain (of autograd).
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from deepspeed import DeepSpeedEngine as Engine
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from sft.settings import deepspeed
from sft.trainer import distributed, dry_run, fast_paths, gradients, loop
from sft.trainer.data import row_writer, rows
from sft.trainer.distributed import World
from sft.trainer.engine import end_engine, grad_norm, start_engine
from tests.settings import decided

OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
Values = dict[str, object]
STAGES: dict[str, tuple[Values, Values]] = {
    "ZeRO-1": ({"stage": 1}, {}),
    "ZeRO-2": ({"stage": 2}, {}),
    "ZeRO-2 offload bf16": ({"stage": 2, **OFFLOAD}, {"precision": "bf16"}),
    "ZeRO-2 LoRA": ({"stage": 2}, {"lora_rank": 2}),
    "ZeRO-3": ({"stage": 3}, {}),
    "ZeRO-3 offload bf16": ({"stage": 3, **OFFLOAD}, {"precision": "bf16"}),
    "ZeRO-3 LoRA": ({"stage": 3}, {"lora_rank": 2}),
}
LAYERS = ("a list", "a dict", "a dataclass", "by keyword", "called twice")
call, forward = LlamaDecoderLayer.__call__, LlamaDecoderLayer.forward


@dataclasses.dataclass
class Output:
    """A layer's output in a class of its own."""

    hidden: torch.Tensor


def make_layers(kind: str) -> None:
    """Have Llama's layers give and take as some other families' do; the model computes the same."""
    ways: dict[str, tuple[Callable[..., object], Callable[..., torch.Tensor]]] = {
        "a list": (lambda hidden: [hidden], lambda output: output[0]),
        "a dict": (lambda hidden: {"hidden": hidden}, lambda output: output["hidden"]),
        "a dataclass": (Output, lambda output: output.hidden),
    }
    wrap, unwrap = ways.get(kind, (lambda hidden: hidden, lambda output: output))
    changed = lambda self, *args, **kwargs: wrap(forward(self, *args, **kwargs))  # noqa: E731
    LlamaDecoderLayer.forward = changed  # type: ignore[method-assign]
    plain = lambda self, *args, **kwargs: unwrap(call(self, *args, **kwargs))  # noqa: E731
    if kind == "by keyword":
        plain = lambda self, hidden, **kwargs: call(self, hidden_states=hidden, **kwargs)  # noqa: E731
    if kind == "called twice":
        plain = lambda self, hidden, **kwargs: call(self, call(self, hidden, **kwargs), **kwargs)  # noqa: E731
    LlamaDecoderLayer.__call__ = plain  # type: ignore[method-assign]


class Cases:
    """What all cases share: a model's folder, rows and this rank's place."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world
        config = transformers.LlamaConfig(
            vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
        )
        draw = np.random.default_rng(0).integers
        self.tokens = [draw(3, 300, size).tolist() for size in draw(8, 60, 8)]
        if world.is_main:
            torch.manual_seed(0)
            transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
            row_writer.write(
                folder / "rows", [rows.TokenisedRow(ids, [True] * len(ids), "", "") for ids in self.tokens]
            )
        distributed.barrier()
        self.rows = rows.Rows(folder / "rows")
        self.share = np.arange(len(self.rows))

    def start(self, zero: Values, given: Values, whole_layers: bool = True) -> tuple[Engine, bool, list[str]]:
        """Return an engine, whether it packs, and why its layers may not be gathered whole."""
        file = self.folder / f"config-{self.world.rank}.json"
        file.write_text(json.dumps({"zero_optimization": zero, "zero_force_ds_cpu_optimizer": False}))
        settings = decided(
            nodes=1,
            gpus_per_node=self.world.world_size,
            ds_config=str(file),
            **{"precision": "fp32", **given},
        )
        engine, _ = start_engine(
            self.folder / "model", settings, deepspeed.configuration(settings), self.world, whole_layers=whole_layers
        )
        with gradients.Misfits(engine) as misfits:
            packing = fast_paths.take_fast_paths(engine, True, self.world)
        return engine, packing, list(misfits.reasons)

    def tried(self, engine: Engine, packing: bool) -> Values:
        """Return what the dry run of two equal micro-steps finds."""
        found = dry_run.run(engine, self.rows, [[self.share] * self.world.world_size] * 2, packing, self.world)
        return {"lost": found.lost, "without": found.without}

    def norm(self, engine: Engine, packing: bool) -> float:
        """Return the gradient norm of a step."""
        ranks, targets = self.world.world_size, self.rows.target_tokens(self.share)
        shares = [self.share[rank::ranks] for rank in range(ranks)]
        loop.optimizer_step(engine, self.rows, [shares], targets, packing, False, self.world)
        return grad_norm(engine).read()[0]

    def plain(self) -> float:
        """Return the gradient norm of the same step by autograd alone."""
        model = transformers.AutoModelForCausalLM.from_pretrained(self.folder / "model")
        targets = sum(len(ids) - 1 for ids in self.tokens)
        for ids in self.tokens:
            labels = torch.tensor([ids])
            (model(labels, labels=labels, use_cache=False).loss * (len(ids) - 1) / targets).backward()
        return float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))


def main() -> None:
    """Print what is found of every case."""
    world = distributed.start("cpu", 60)
    cases = Cases(Path(sys.argv[1]), world)
    for name, (zero, given) in STAGES.items():
        engine, packing, reasons = cases.start(zero, given)
        say(name, reasons, **cases.tried(engine, packing))
        if zero["stage"] == 1:  # reduces at the end of a step whatever has no hook
            end_engine(engine)
            continue
        # DeepSpeed's own hook, on the second layer or on the fourth weight.
        if zero["stage"] == 3:
            engine.optimizer._leaf_module_hooks[1].remove()
        else:  # offloaded gradients of a dry run before would stay
            end_engine(engine)
            engine, packing, reasons = cases.start(zero, given)
            engine.optimizer._grad_acc_hooks[3].remove()
        say(f"{name}, hook gone", reasons, **cases.tried(engine, packing))
        end_engine(engine)
    for kind in LAYERS:
        make_layers(kind)
        engine, packing, reasons = cases.start({"stage": 3}, {})
        # What the others do to DeepSpeed's hooks ends in an error on a CPU.
        say(f"{kind}, whole", reasons, **cases.tried(engine, packing) if kind == "a list" else {})
        end_engine(engine)
        engine, packing, reasons = cases.start({"stage": 3}, {}, whole_layers=False)
        found = cases.tried(engine, packing)
        say(f"{kind}, in parts", reasons, **found, norm=cases.norm(engine, packing), plain=cases.plain())
        end_engine(engine)
    distributed.end()


def say(case: str, reasons: list[str], **found: object) -> None:
    """Print what is found of a case (rank 0)."""
    if os.environ["RANK"] == "0":
        sys.stdout.write("\n" + json.dumps({"case": case, "reasons": reasons, **found}) + "\n")


if __name__ == "__main__":
    main()
