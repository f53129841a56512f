"""Resume from a checkpoint: verify every byte against the manifest, then load it.

`checkpoints/step-NNNNNN/` holds DeepSpeed's shards and `manifest.json` with every file's size and hash. It is written
under another name (save.py), renamed when all ranks are done, and only after that `checkpoints/latest` names it.
"""

from __future__ import annotations

import hashlib
import shutil
import socket
import time
from pathlib import Path

from deepspeed import DeepSpeedEngine

from sft.errors import UserError
from sft.run.checkpoints import MANIFEST, manifest, name_of, steps, whose
from sft.run.directory import Run
from sft.run.records import CheckpointFile
from sft.trainer import distributed
from sft.trainer.checkpoint import universal
from sft.trainer.distributed import World

POLL_S = 0.1
SEEN_WITHIN_S = 120.0  # NFS looks again after a minute at the latest


def describe(path: Path) -> CheckpointFile:
    """Return a file's size and hash."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    return CheckpointFile(bytes=path.stat().st_size, blake2b=digest)


def share(folder: Path, names: list[str], world: World) -> dict[str, CheckpointFile] | str:
    """Return size and hash of this rank's share of a checkpoint's files, by name: the ranks read them together.

    A file that is not there is left out. If the system does not let one be read, return what it says.
    """
    found = dict[str, CheckpointFile]()
    for name in names[world.rank :: world.world_size]:
        try:
            if (folder / name).is_file():
                found[name] = describe(folder / name)
        except OSError as error:
            return f"{folder / name}: cannot be read ({error.strerror})"
    return found


def damage(folder: Path, run: Run, world: World) -> str:
    """Return what is wrong with a checkpoint, or "" (all ranks; each reads a share of the files).

    Raises UserError if a file cannot be read, or a rank does not see it: the disk or a server may be at fault, not the
    checkpoint.
    """
    deadline = time.monotonic() + SEEN_WITHIN_S
    while not folder.exists():  # the first rank sees it, and over NFS this one will
        if time.monotonic() > deadline:
            host = socket.gethostname()
            raise UserError(f"{folder}: {host} does not see it, and the first node does; mount it there")
        time.sleep(POLL_S)
    content, run_identity = distributed.of_first((manifest(folder), run.identity()), world)
    names = sorted(content.files) if content else []
    present: dict[str, CheckpointFile] = {}
    for found in distributed.gather(share(folder, names, world)):
        if isinstance(found, str):
            raise UserError(f"{found}; make it readable, or rename {folder} to resume from the checkpoint before it")
        present |= found
    if content is None:
        return f"{MANIFEST} is missing or damaged"
    if stranger := whose(content, folder, run_identity):
        return stranger
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
    for step in reversed(distributed.of_first(steps(run.checkpoints), world)):
        folder = run.checkpoints / name_of(step)
        reason = damage(folder, run, world)
        if not reason:
            content = distributed.of_first(manifest(folder), world)
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
