"""Saving while training goes on: every rank's shards are copied to host memory, and a thread writes them.

One save is in flight at a time. The checkpoint is there, with its manifest and its name, once every rank's files are on
disk; each rank leaves a list of its own ones in the folder, so no thread needs a collective. What goes wrong is raised
at the next step.

DeepSpeed's own engines do it less well (0.19.8): the decoupled one is done before the next step may change a weight,
wants a second process per rank, and goes on in silence when that has died.
"""

from __future__ import annotations

import copy
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

from sft import checkpoints, files
from sft.errors import RunFailed
from sft.run import Run
from sft.trainer import checkpoint, disk, distributed
from sft.trainer.distributed import World

POLL_S = 0.02
# What a shard needs beyond its tensors: names, shapes and the alignment of each tensor.
MARGIN = 1.01
MARGIN_BYTES = 256 * 1024


class HostCopies(TorchCheckpointEngine):
    """Takes the place of DeepSpeed's writer in its engine: `save` copies to host memory and writes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[Path, Any] = {}
        self.needed_bytes = 0.0

    def save(self, state_dict: Any, path: str) -> None:
        """Copy what is to be written to `path`."""
        seen: dict[Hashable, torch.Tensor] = {}  # of this file only: what the next one holds may lie in the same place
        self.states[Path(path)] = copied(state_dict, seen)
        self.needed_bytes += MARGIN * sum(tensor.nbytes for tensor in seen.values()) + MARGIN_BYTES

    def preserves_storage_sharing(self) -> bool:
        """Whether DeepSpeed must copy parts of larger tensors before: no, every copy here is one of its own."""
        return False

    def take(self) -> tuple[dict[Path, Any], float]:
        """Return the copies by path, and about how many bytes they need on disk, and forget them."""
        taken = self.states, self.needed_bytes
        self.states, self.needed_bytes = {}, 0.0
        return taken


def copied(value: Any, seen: dict[Hashable, torch.Tensor]) -> Any:
    """Return a copy that shares nothing with what training changes; a tensor that stands there twice is copied once."""
    if isinstance(value, torch.Tensor):
        key = (value.data_ptr(), value.dtype, value.shape, value.stride()) if value.numel() else id(value)
        if key not in seen:
            seen[key] = value.detach().to("cpu", copy=True)
        return seen[key]
    if type(value) in (dict, OrderedDict):
        return type(value)((name, copied(part, seen)) for name, part in value.items())
    if type(value) in (list, tuple):
        return type(value)(copied(part, seen) for part in value)
    return copy.deepcopy(value)


class Saver:
    """Saves the checkpoints of one engine."""

    def __init__(self, engine: Any, run: Run, keep: int, world: World) -> None:
        """Take over what the engine writes. The newest `keep` checkpoints stay."""
        self.engine, self.run, self.keep, self.world = engine, run, keep, world
        self.copies = engine.checkpoint_engine = HostCopies()
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def start(self, step: int) -> None:
        """Copy weights and optimizer after `step` steps and begin to write them, after the save before (all ranks).

        Raises RunFailed where the disk has no room for it.
        """
        self.finish()
        folder, temporary = self.run.checkpoints / checkpoints.name_of(step), self.temporary(step)
        if folder.exists():  # a resumed run that was stopped again before its next step
            return
        if self.world.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        distributed.barrier()
        # DeepSpeed would write `latest` before all ranks are done.
        self.engine.save_checkpoint(
            str(self.run.checkpoints), tag=temporary.name, save_latest=False, exclude_frozen_parameters=True
        )
        states, needed = self.copies.take()
        (needed_by_all,) = distributed.total([needed], self.world)
        self.check_room(folder, int(needed_by_all))
        self.thread = threading.Thread(target=self.write, args=(step, states), daemon=True)
        self.thread.start()

    @property
    def is_writing(self) -> bool:
        """Whether a save is in flight on this rank."""
        return self.thread is not None and self.thread.is_alive()

    def check(self) -> None:
        """Raise what went wrong with a save in the background."""
        if self.error is not None:
            raise self.error

    def finish(self) -> None:
        """Wait until the save in flight is a checkpoint, and raise what went wrong with it."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        self.check()

    def temporary(self, step: int) -> Path:
        """Return the folder that a checkpoint is written to before it has its name."""
        return self.run.checkpoints / f".{checkpoints.name_of(step)}"

    def check_room(self, folder: Path, needed: int) -> None:
        """Raise RunFailed where fewer bytes are free than a checkpoint needs."""
        free = shutil.disk_usage(self.run.checkpoints).free
        if free < needed:
            what = f"it needs {disk.size(needed)}, {disk.size(free)} are free, {disk.size(needed - free)} are missing"
            raise disk.full(folder, what)

    # In the thread

    def write(self, step: int, states: dict[Path, Any]) -> None:
        """Write this rank's files, and wait for the checkpoint, which rank 0 makes of all ranks' files."""
        folder, temporary = self.run.checkpoints / checkpoints.name_of(step), self.temporary(step)
        paths = list(states)
        try:
            for path in paths:
                torch.save(states.pop(path), path)
            entries = {path.name: checkpoint.describe(path) for path in paths}
            files.write_json(part(temporary, self.world.rank), entries)
            if self.world.is_main:
                self.complete(step, folder, temporary)
            while not folder.is_dir():
                self.wait()
        except BaseException as error:
            self.error = disk.full(folder, "while it was written") if disk.is_full(error) else error
            for path in paths:  # room for what is still to be said
                path.unlink(missing_ok=True)

    def complete(self, step: int, folder: Path, temporary: Path) -> None:
        """Give a checkpoint its manifest and its name once all ranks' files are there, and remove the oldest."""
        parts = [part(temporary, rank) for rank in range(self.world.world_size)]
        while not all(path.is_file() for path in parts):
            self.wait()
        entries = {name: entry for path in parts for name, entry in files.read_json(path).items()}
        content = {"step": step, "world_size": self.world.world_size, "files": entries}
        checkpoint.write_manifest(temporary, content)
        for path in parts:
            path.unlink()
        if self.run.metrics.is_file():
            files.flush(self.run.metrics)  # a run that resumes here must find the lines of all steps before
        files.flush(temporary)
        temporary.rename(folder)
        files.flush(folder.parent)
        files.write_whole(self.run.checkpoints / "latest", folder.name + "\n")
        for old in checkpoints.steps(self.run.checkpoints)[: -self.keep]:
            files.remove_folder(self.run.checkpoints / checkpoints.name_of(old))

    def wait(self) -> None:
        """Wait a moment for another rank. Raises RunFailed where none will come, because the run is broken."""
        if reason := self.run.failure():
            raise RunFailed(reason)
        time.sleep(POLL_S)


def part(folder: Path, rank: int) -> Path:
    """Return the file that says which files of a checkpoint a rank has written."""
    return folder / f".rank-{rank}.json"
