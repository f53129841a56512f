"""Resume from a checkpoint: verify every byte against the manifest, then load it.

`checkpoints/step-NNNNNN/` holds DeepSpeed's shards and `manifest.json` with every file's size and hash. It is written
under another name (save.py), renamed when all ranks are done, and only after that `checkpoints/latest` names it.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from deepspeed import DeepSpeedEngine

from sft.run.checkpoints import MANIFEST, manifest, name_of, steps
from sft.run.directory import Run
from sft.run.records import CheckpointFile
from sft.trainer import distributed
from sft.trainer.checkpoint import universal
from sft.trainer.distributed import World


def describe(path: Path) -> CheckpointFile:
    """Return a file's size and hash."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    return CheckpointFile(bytes=path.stat().st_size, blake2b=digest)


def share(folder: Path, world: World) -> dict[str, CheckpointFile]:
    """Return size and hash of this rank's share of a checkpoint's files, by name: the ranks read them together."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    return {path.name: describe(path) for path in paths[world.rank :: world.world_size]}


def damage(folder: Path, world: World) -> str:
    """Return what is wrong with a checkpoint, or "" (all ranks; each reads a share of the files)."""
    content = manifest(folder)
    found = distributed.gather(share(folder, world))
    if content is None:
        return f"{MANIFEST} is missing or damaged"
    present = {name: entry for part in found for name, entry in part.items()}
    for name, entry in content.files.items():
        if name not in present:
            return f"{name} is missing"
        if present[name].bytes != entry.bytes:
            return f"{name} has {present[name].bytes} bytes instead of {entry.bytes}"
        if present[name] != entry:
            return f"{name} does not have the content that was written"
    return ""


def resume(engine: DeepSpeedEngine, run: Run, world: World) -> int:
    """Load the newest undamaged checkpoint (all ranks). Return its step, or 0 without one.

    A damaged checkpoint is reported and renamed to `step-NNNNNN.damaged`; then the one before it is tried.
    """
    if world.is_main:
        # Left by processes that were killed or ran out of disk space. A universal form is for one load only.
        for half in (*run.checkpoints.glob(".step-*"), *run.checkpoints.glob("step-*.universal")):
            shutil.rmtree(half)
    for step in reversed(steps(run.checkpoints)):
        folder = run.checkpoints / name_of(step)
        reason = damage(folder, world)
        if not reason:
            content = manifest(folder)
            assert content is not None
            if content.world_size == world.world_size:
                # Checkpoints have no frozen weights: those under an adapter, and a few that some families never train.
                strict = all(parameter.requires_grad for parameter in engine.module.parameters())
                engine.load_checkpoint(
                    str(run.checkpoints), tag=folder.name, load_module_strict=strict, load_lr_scheduler_states=False
                )
            else:
                universal.load(engine, folder, world)
            return step
        distributed.barrier()  # until every rank has read it
        if world.is_main:
            said = f"{folder}: damaged ({reason}); set aside; trying the previous one"
            print(said, flush=True)
            run.warn(said)
            aside = folder.with_name(folder.name + ".damaged")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        distributed.barrier()
    return 0
