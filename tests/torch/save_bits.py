"""Save DeepSpeed's engine on the model in argv[1] with copies and in pieces; print what of the checkpoints differs.

A program of its own: DeepSpeed chooses its accelerator once a process.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from deepspeed import DeepSpeedEngine

from sft import hostfile
from sft.run import checkpoints, lifecycle
from sft.settings import deepspeed
from sft.settings.stages import Decided
from sft.trainer import fast_paths, loop
from sft.trainer.checkpoint import resume, save, shards
from sft.trainer.data import rows as data
from sft.trainer.distributed import World
from sft.trainer.engine import start_engine
from tests.settings import decided
from tests.torch.one_rank import one_rank, random_rows

KINDS: dict[str, dict[str, object]] = {
    "zero1": {"ds_config": "zero1"},
    "zero2": {"ds_config": "zero2"},
    "zero3": {"ds_config": "zero3"},
    "lora": {"ds_config": "zero2", "lora_rank": 4},
    "zero1-16-bits": {"ds_config": "zero1", "optimizer_bits": 16},
    "zero2-16-bits": {"ds_config": "zero2", "optimizer_bits": 16},
    "zero3-16-bits": {"ds_config": "zero3", "optimizer_bits": 16},
    "lora-16-bits": {"ds_config": "zero3", "lora_rank": 4, "optimizer_bits": 16},
}


def differences(one: object, other: object, where: str = "") -> Iterator[str]:
    """Yield the places at which two loaded files differ."""
    if type(one) is not type(other):
        yield f"{where}: {type(one)} and {type(other)}"
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape or not torch.equal(one, other):
            yield where
    elif isinstance(one, dict) and isinstance(other, dict):
        if list(one) != list(other):
            yield f"{where}: other names"
        for name in one:
            yield from differences(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            yield f"{where}: other length"
        for i, (ours, theirs) in enumerate(zip(one, other, strict=False)):
            yield from differences(ours, theirs, f"{where}[{i}]")
    elif hasattr(one, "__dict__"):
        yield from differences(vars(one), vars(other), where)
    elif one != other:
        yield f"{where}: {one} and {other}"


def saved(model: Path, settings: Decided, rows: data.Rows, world: World, folder: Path) -> dict[str, object]:
    """Return how two checkpoints of one state differ, and whether training waited for each of them."""
    run = lifecycle.create(settings, hostfile.hostfile(1, 1))
    engine, _ = start_engine(model, settings, deepspeed.configuration(settings), world)
    packing = fast_paths.take_fast_paths(engine, True, world)
    everything = np.arange(len(rows))
    loop.optimizer_step(engine, rows, [[everything]], rows.target_tokens(everything), packing, False, world)
    found = []
    for step, available_kb in ((1, 2**30), (2, 1)):
        (folder / "proc").mkdir(exist_ok=True)
        (folder / "proc" / "meminfo").write_text(f"MemAvailable: {available_kb} kB\n")
        saver = save.Saver(engine, run, 2, world, root=folder)
        saver.start(step)
        saver.finish()
        found.append(saver.waits)
    one, other = (run.checkpoints / checkpoints.name_of(step) for step in (1, 2))
    names = sorted(path.name for path in one.glob("*.pt"))
    different = [] if names == sorted(path.name for path in other.glob("*.pt")) else ["other files"]
    tensors = 0
    for name in names:
        ours, theirs = (torch.load(path / name, weights_only=False) for path in (one, other))
        different += differences(ours, theirs, name)
        tensors += shards.tensor_bytes(ours)
    return {
        "different": different,
        "waited": found,
        "bytes_a_weight": tensors / sum(w.numel() for w in engine.parameters() if w.requires_grad),
        "resumes_at": resume.resume(engine, run, world),
        "one_copy": has_one_copy(engine),
    }


def has_one_copy(engine: DeepSpeedEngine) -> bool:
    """Tell whether the weights that the optimizer updates are those of the model, in the same memory."""
    zero = engine.optimizer
    if engine.zero_optimization_stage() == 3:
        masters, weights = zero.fp32_partitioned_groups_flat, zero.fp16_partitioned_groups_flat
    else:
        masters, weights = zero.single_partition_of_fp32_groups, zero.bit16_groups_flat  # of one rank: the whole
    return all(one.data_ptr() == other.data_ptr() for one, other in zip(masters, weights, strict=True))


def main() -> None:
    """Print what is found of every kind, as JSON."""
    found = {}
    with one_rank() as world, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = random_rows(folder / "rows", 20, 21, 4)
        for name, more in KINDS.items():
            settings = decided(
                nodes=1, gpus_per_node=1, precision="bf16", runs_path=folder / "runs", run_name=name, **more
            )
            found[name] = saved(Path(sys.argv[1]), settings, rows, world, folder)
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
