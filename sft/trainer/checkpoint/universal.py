"""Resume on another number of ranks: all shards are put together and cut again.

DeepSpeed's universal form does it. It is made beside the checkpoint for one load and removed again: the next save has
the shards of the ranks of now.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from deepspeed.checkpoint import ds_to_universal

from sft.run import files
from sft.trainer import distributed
from sft.trainer.checkpoint import disk
from sft.trainer.distributed import World

POLL_S = 0.1


def load(engine: Any, folder: Path, world: World) -> None:
    """Load the checkpoint in `folder`, of another number of ranks (all ranks). Raises RunFailed on a full disk."""
    universal = folder.with_name(f"{folder.name}.universal")
    convert(folder, universal, world)
    groups = [{name: value for name, value in group.items() if name != "params"} for group in groups_of(engine)]
    engine._config.load_universal_checkpoint = True
    engine.load_checkpoint(str(universal.parent), tag=universal.name, load_lr_scheduler_states=False)
    engine._config.load_universal_checkpoint = False
    # DeepSpeed gives all groups the first one's weight decay, and all their states one and the same count of steps,
    # which each of them would then raise, and on the host, where AdamW's fused kernel does not look for it.
    for group, kept in zip(groups_of(engine), groups, strict=True):
        group.update(kept)
    for state in engine.optimizer.optimizer.state.values():
        state["step"] = state["step"].to(state["exp_avg"].device, copy=True)
    distributed.barrier()
    if world.is_main:
        shutil.rmtree(universal)


def groups_of(engine: Any) -> list[dict[str, Any]]:
    """Return the optimizer's groups of parameters."""
    groups: list[dict[str, Any]] = engine.optimizer.param_groups
    return groups


def convert(folder: Path, universal: Path, world: World) -> None:
    """Write the universal form of a checkpoint to `universal`, whole or not at all (all ranks; rank 0 writes)."""
    if world.is_main:
        shutil.rmtree(universal, ignore_errors=True)  # of a start that was killed
    distributed.barrier()
    if world.is_main:
        print(f"{folder}: cut for {world.world_size} ranks", flush=True)
        try:
            with files.whole_folder(universal) as temporary:
                ds_to_universal.main(options(folder, temporary))
        except (OSError, RuntimeError) as error:
            if not disk.is_full(error):
                raise
            raise disk.full(universal, f"{folder.name} is cut anew for other ranks") from error
    while not universal.is_dir():  # no collective: it may take longer than ranks wait for each other
        time.sleep(POLL_S)


def options(folder: Path, output: Path) -> argparse.Namespace:
    """Return what DeepSpeed's conversion is asked to do. It writes a file `latest_universal` beside its output."""
    return argparse.Namespace(
        input_folder=str(folder),
        output_folder=str(output),
        num_extract_workers=1,  # a rank must not fork
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # ZeRO-2 says nothing of tensor parallelism, which is not used
    )
