"""Train some steps of the model in argv[1] with and without a dry run before and between them; print what differs.

A program of its own: DeepSpeed chooses its accelerator once a process.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from sft.settings import deepspeed
from sft.settings.stages import Decided
from sft.trainer import dry_run, fast_paths, loop
from sft.trainer.data import rows as data
from sft.trainer.distributed import World
from sft.trainer.engine import grad_norm, start_engine
from tests.settings import decided
from tests.torch.one_rank import one_rank, random_rows

IN_16_BITS = "bf16 in 16 bits"
OFFLOAD: dict[str, object] = {"offload_optimizer": {"device": "cpu"}}
# The ways in which DeepSpeed keeps gradients between micro-steps.
KINDS: list[tuple[int, dict[str, object], str]] = [
    (1, {}, "bf16"),
    (3, {}, IN_16_BITS),
    (1, {}, IN_16_BITS),
    (2, {}, "fp32"),
    (3, {}, "fp32"),
    (2, OFFLOAD, "bf16"),
    (3, OFFLOAD, "bf16"),
]


def bits(path: Path, settings: Decided, rows: data.Rows, world: World, with_dry_run: bool) -> tuple[list[float], str]:
    """Return losses and a hash of the weights after three steps of two micro-steps."""
    engine, _ = start_engine(path, settings, deepspeed.configuration(settings), world)
    packing = fast_paths.take_fast_paths(engine, True, world)
    losses: list[float] = []
    for step in range(3):
        share = np.arange(len(rows))
        if with_dry_run:
            dry_run.run(engine, rows, [[share]] * (1 + step), packing, world)
        micro_steps = [[share[step :: len(rows) // 2]], [share[step + 1 :: len(rows) // 2]]]
        targets = rows.target_tokens(np.concatenate([share for per_rank in micro_steps for share in per_rank]))
        losses += loop.optimizer_step(engine, rows, micro_steps, targets, packing, False, world)
        losses += grad_norm(engine).read()
    digest = hashlib.sha256()
    for parameter in engine.module.parameters():
        whole = parameter.ds_tensor if hasattr(parameter, "ds_tensor") else parameter
        digest.update(whole.detach().float().numpy().tobytes())
    engine.destroy()
    return losses, digest.hexdigest()


def main() -> None:
    """Print for every kind whether a run with dry runs is the run without them, as JSON."""
    found = {}
    with one_rank() as world, tempfile.TemporaryDirectory() as folder:
        rows = random_rows(Path(folder) / "rows", 8, 60, 8)
        for stage, more, precision in KINDS:
            config = Path(folder) / "config.json"
            zero = {"stage": stage, **more}
            config.write_text(json.dumps({"zero_optimization": zero, "zero_force_ds_cpu_optimizer": False}))
            settings = decided(
                nodes=1, gpus_per_node=1, ds_config=str(config), precision=precision.split()[0], learning_rate=1e-2,
                optimizer_bits=16 if precision == IN_16_BITS else 32,
            )  # fmt: skip
            with_, without = (bits(Path(sys.argv[1]), settings, rows, world, on) for on in (True, False))
            found[f"ZeRO-{stage} {precision}{' offload' * bool(more)}"] = with_ == without
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
