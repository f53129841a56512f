"""Checkpoints that are whole or absent.

`checkpoints/step-NNNNNN/` holds DeepSpeed's shards and `manifest.json` with every file's size and hash. It is written
under another name and renamed when all ranks are done, and only then does `checkpoints/latest` name it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from sft.errors import RunFailed
from sft.run import Run, write_whole
from sft.trainer import distributed, universal
from sft.trainer.distributed import World

MANIFEST = "manifest.json"


def name_of(step: int) -> str:
    """Return the folder name of the checkpoint after `step` steps."""
    return f"step-{step:06d}"


def save(engine: Any, run: Run, step: int, keep: int, world: World) -> None:
    """Save weights and optimizer after `step` steps (all ranks). The newest `keep` checkpoints stay."""
    folder, temporary = run.checkpoints / name_of(step), run.checkpoints / f".{name_of(step)}"
    if folder.exists():  # a resumed run that was stopped again before its next step
        return
    if world.is_main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    distributed.barrier()
    try:
        # DeepSpeed would write `latest` before all ranks are done.
        engine.save_checkpoint(str(run.checkpoints), tag=temporary.name, save_latest=False)
        distributed.barrier()
        files = {name: entry for part in distributed.gather(describe(temporary, world)) for name, entry in part.items()}
    except (OSError, RuntimeError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not is_write_error(error):
            raise
        remedy = "free some space at RUNS_PATH or lower KEEP_CHECKPOINTS; the checkpoint before it stays"
        raise RunFailed(f"{folder}: could not be written ({os.strerror(errno.ENOSPC)}); {remedy}") from error
    if world.is_main:
        manifest = {"step": step, "world_size": world.world_size, "files": files}
        write_whole(temporary / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        temporary.rename(folder)
        write_whole(run.checkpoints / "latest", folder.name + "\n")
        for old in steps(run)[:-keep]:
            shutil.rmtree(run.checkpoints / name_of(old))
    distributed.barrier()


def is_write_error(error: Exception) -> bool:
    """Tell whether an error means a full disk; torch's writer raises its own, about a position in the file."""
    return getattr(error, "errno", None) == errno.ENOSPC or "inline_container.cc" in str(error)


def describe(folder: Path, world: World) -> dict[str, dict[str, Any]]:
    """Flush this rank's share of a folder's files to disk. Return their sizes and hashes by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    found = {}
    for path in paths[world.rank :: world.world_size]:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
        found[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "blake2b": digest}
    return found


def steps(run: Run) -> list[int]:
    """Return the steps of the complete checkpoints, oldest first."""
    matches = [re.fullmatch(r"step-(\d+)", path.name) for path in run.checkpoints.iterdir()]
    return sorted(int(match[1]) for match in matches if match)


def damage(folder: Path, world: World) -> str:
    """Return what is wrong with a checkpoint, or "" (all ranks; each reads its share of the files)."""
    try:
        expected = json.loads((folder / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError):
        expected = None
    found = distributed.gather(describe(folder, world))
    if expected is None:
        return f"{MANIFEST} is missing or unreadable"
    present = {name: entry for part in found for name, entry in part.items()}
    for name, entry in expected.items():
        if name not in present:
            return f"{name} is missing"
        if present[name]["bytes"] != entry["bytes"]:
            return f"{name} has {present[name]['bytes']} bytes instead of {entry['bytes']}"
        if present[name] != entry:
            return f"{name} has another content than was written"
    return ""


def resume(engine: Any, run: Run, world: World) -> int:
    """Load the newest whole checkpoint and return its step; 0 where there is none (all ranks).

    A damaged one is named, set aside as `step-NNNNNN.damaged`, and the one before it taken.
    """
    for step in reversed(steps(run)):
        folder = run.checkpoints / name_of(step)
        reason = damage(folder, world)
        if not reason:
            if json.loads((folder / MANIFEST).read_text())["world_size"] == world.world_size:
                engine.load_checkpoint(str(run.checkpoints), tag=folder.name, load_lr_scheduler_states=False)
            else:
                universal.load(engine, folder, world)
            return step
        distributed.barrier()  # every rank has read it
        if world.is_main:
            print(f"{folder}: damaged ({reason}); set aside, trying the one before", flush=True)
            aside = folder.with_name(folder.name + ".damaged")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        distributed.barrier()
    return 0
