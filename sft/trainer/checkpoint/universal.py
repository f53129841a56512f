"""Resume on another number of ranks: all shards are put together and cut again.

DeepSpeed's universal checkpoint does that. It is made beside the checkpoint, loaded once and removed: the next save has
the shards of the present ranks.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from deepspeed import DeepSpeedEngine
from deepspeed.checkpoint import ds_to_universal

from sft.run import files
from sft.trainer import distributed
from sft.trainer.checkpoint import disk
from sft.trainer.distributed import World

POLL_S = 0.1


def load(engine: DeepSpeedEngine, folder: Path, world: World) -> None:
    """Load a checkpoint that another number of ranks has saved (all ranks). Raises RunFailed if the disk is full."""
    universal = folder.with_name(f"{folder.name}.universal")
    convert(folder, universal, world)
    groups = [{name: value for name, value in group.items() if name != "params"} for group in groups_of(engine)]
    engine._config.load_universal_checkpoint = True
    engine.load_checkpoint(str(universal.parent), tag=universal.name, load_lr_scheduler_states=False)
    engine._config.load_universal_checkpoint = False
    # DeepSpeed restores every group with the first group's weight decay, and all states share one step counter, on the
    # CPU. Restore the groups, and give each state a counter of its own on the device.
    for group, kept in zip(groups_of(engine), groups, strict=True):
        group.update(kept)
    for state in engine.optimizer.optimizer.state.values():
        state["step"] = state["step"].to(state["exp_avg"].device, copy=True)
    distributed.barrier()
    if world.is_main:
        shutil.rmtree(universal)


def groups_of(engine: DeepSpeedEngine) -> list[dict[str, object]]:
    """Return the optimizer's parameter groups."""
    groups: list[dict[str, object]] = engine.optimizer.param_groups
    return groups


def convert(folder: Path, universal: Path, world: World) -> None:
    """Write a checkpoint's universal form to `universal`, complete or not at all (all ranks; rank 0 writes)."""
    if world.is_main:
        shutil.rmtree(universal, ignore_errors=True)  # left by a start that was killed
    distributed.barrier()
    if world.is_main:
        print(f"{folder}: converting it for {world.world_size} ranks", flush=True)
        try:
            with files.whole_folder(universal) as temporary:
                ds_to_universal.main(options(folder, temporary))
        except (OSError, RuntimeError) as error:
            if not disk.is_full(error):
                raise
            raise disk.full(universal, f"while {folder.name} was converted for other ranks") from error
    while not universal.is_dir():  # may take minutes
        time.sleep(POLL_S)


def options(folder: Path, output: Path) -> argparse.Namespace:
    """Return the options of DeepSpeed's conversion. It also writes a file `latest_universal` beside its output."""
    return argparse.Namespace(
        input_folder=str(folder),
        output_folder=str(output),
        num_extract_workers=1,  # in this process: a rank must not fork
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # of tensor parallelism, which is not used, and which ZeRO-2 saves nothing about
    )
