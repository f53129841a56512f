"""Save while training continues: every rank copies its shards to main memory, and a thread writes them.

If a machine's main memory has no room for the copies of all its ranks, training waits while they write their shards
piece by piece.

One save is in flight at a time. A checkpoint gets its manifest and its name once every rank's files are on disk. Each
rank leaves a list of its files in the folder, so no thread needs a collective operation: those of the threads would mix
with those of the training. An error in a thread is raised at the next step.

DeepSpeed has checkpoint engines for this too. Its decoupled one (0.19.8) blocks the next step until it is done, needs a
second process per rank, and says nothing if that process has died.
"""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from deepspeed import DeepSpeedEngine

from sft import resources
from sft.errors import RunFailed
from sft.run import checkpoints, files, typed_json
from sft.run.directory import Run
from sft.run.records import CheckpointFile, Manifest, Share
from sft.trainer import distributed
from sft.trainer.checkpoint import disk, resume
from sft.trainer.checkpoint.shards import Collector, copied, tensor_bytes, write_in_pieces
from sft.trainer.distributed import World

POLL_S = 0.02
# The size of a file beyond its tensors: names, shapes, and the alignment of each tensor.
MARGIN = 1.01
MARGIN_BYTES = 256 * 1024
COPY_SHARE = 0.9  # of the free main memory that copies may take
WRITTEN = object()  # replaces a state that has been written to its file


class Needs(NamedTuple):
    """What one rank needs for a save, and what is free, in bytes."""

    disk: float
    memory: int  # for the copies
    free_memory: dict[str, int]  # of its machine and its containers, by name
    free_disk: int


class Saver:
    """Saves the checkpoints of one engine."""

    def __init__(self, engine: DeepSpeedEngine, run: Run, keep: int, world: World, root: Path = resources.ROOT) -> None:
        """Replace the engine's writer. The newest `keep` checkpoints stay; `root`: see sft/resources.py."""
        self.engine, self.run, self.keep, self.world, self.root = engine, run, keep, world, root
        self.collector = engine.checkpoint_engine = Collector()
        self.waits = False  # whether training waits while a checkpoint is written
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None
        self.is_given_up = False
        if world.is_main:
            self.remove_old()  # a lower KEEP_CHECKPOINTS makes room at once, as the error of a full disk promises

    def remove_old(self) -> None:
        for old in checkpoints.steps(self.run.checkpoints)[: -self.keep]:
            files.remove_folder(self.run.checkpoints / checkpoints.name_of(old))

    def start(self, step: int, more_bytes: int = 0) -> None:
        """Copy the state after `step` steps, and start a thread that writes it (all ranks).

        Waits for the previous save to finish. Raises RunFailed, on all ranks, if the disk has no room for the
        checkpoint and `more_bytes`.
        """
        self.finish()  # only one is in flight: two would need two copies of the state in main memory
        folder, temporary = self.run.checkpoints / checkpoints.name_of(step), self.temporary(step)
        if folder.exists():  # a resumed run is stopped again before its next step
            return
        if self.world.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        distributed.barrier()
        # The collector gets the state: nothing is written yet. DeepSpeed's own `latest` would be there before all ranks
        # are done.
        self.engine.save_checkpoint(
            str(self.run.checkpoints), tag=temporary.name, save_latest=False, exclude_frozen_parameters=True
        )
        shards = self.collector.take()
        sizes = [tensor_bytes(state) for state in shards.values()]
        needed = MARGIN * sum(sizes) + MARGIN_BYTES * len(sizes)
        free = shutil.disk_usage(self.run.checkpoints).free
        # Every rank sees the numbers of all, so all make the same decision: a rank that raises or waits alone
        # would leave the others in the next collective.
        ranks = distributed.gather(Needs(needed, sum(sizes), resources.memory_limits(self.root), free))
        check_room(folder, int(sum(rank.disk for rank in ranks)) + more_bytes, min(rank.free_disk for rank in ranks))
        if lacking := no_room_for_copies([(rank.memory, rank.free_memory) for rank in ranks]):
            self.write_now(shards, lacking)
        else:
            shards = {path: copied(state) for path, state in shards.items()}
        # The thread uses nothing that the next step changes, so training continues at once.
        self.thread = threading.Thread(target=self.write, args=(step, shards), daemon=True)
        self.thread.start()

    def write_now(self, shards: dict[Path, Any], lacking: str) -> None:
        """Write this rank's files while training waits. Errors are kept in the states' place, for `write` to raise."""
        if self.world.is_main:
            self.run.tell("saving")
            if not self.waits:
                print(f"saving: {lacking}; so training waits while a checkpoint is written", flush=True)
        self.waits = True
        for path, state in shards.items():
            try:
                write_in_pieces(state, path)
                shards[path] = WRITTEN
            except Exception as error:
                shards[path] = error
        if self.world.is_main:
            self.run.tell("training")

    @property
    def is_writing(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def check(self) -> None:
        """Raise the error of a save in the background, if there was one."""
        if self.error is not None:
            raise self.error

    def finish(self) -> None:
        """Wait until the save in flight has become a checkpoint. Raises its error if it fails."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        self.check()

    def temporary(self, step: int) -> Path:
        """Return the hidden folder that a checkpoint is written to before it is renamed."""
        return self.run.checkpoints / f".{checkpoints.name_of(step)}"

    def save_before_export(self, step: int, export_bytes: int) -> None:
        """Save after the last step, and wait for it (all ranks): if the export fails, no step is lost.

        If the disk has no room for both the checkpoint and the export, the checkpoint is left out.
        """
        self.finish()
        try:
            self.start(step, export_bytes)
        except RunFailed as error:
            self.do_without(step, error)
            return
        while self.thread is not None:
            writing, broken = distributed.total([self.is_writing, self.error is not None], self.world)
            if broken:
                self.is_given_up = True
                self.thread.join()
                self.thread, self.is_given_up = None, False
                self.do_without(step, self.error)
            elif not writing:
                self.finish()
            else:
                time.sleep(POLL_S)

    def do_without(self, step: int, error: BaseException | None) -> None:
        """Remove the half-written checkpoint, and say why (all ranks)."""
        self.error = None
        reasons = [reason for reason in distributed.gather(None if error is None else str(error)) if reason]
        if self.world.is_main:
            shutil.rmtree(self.temporary(step), ignore_errors=True)
            print(f"no checkpoint before the export: {reasons[0]}", flush=True)

    def forget(self, step: int) -> None:
        """Remove a checkpoint that is not needed any more, if it is there (rank 0 does)."""
        folder = self.run.checkpoints / checkpoints.name_of(step)
        if not self.world.is_main or not folder.is_dir():
            return
        files.remove_folder(folder)
        left = checkpoints.steps(self.run.checkpoints)
        if left:
            files.write_whole(self.run.checkpoints / "latest", checkpoints.name_of(left[-1]) + "\n")
        else:
            (self.run.checkpoints / "latest").unlink(missing_ok=True)

    # In the thread

    def write(self, step: int, states: dict[Path, Any]) -> None:
        """Write this rank's files, and wait until rank 0 has made a checkpoint of the files of all ranks.

        A state may be WRITTEN, or the error that prevented it, if training has waited for it (`write_now`).
        """
        folder, temporary = self.run.checkpoints / checkpoints.name_of(step), self.temporary(step)
        paths = list(states)
        try:
            share = Share(files={path.name: written(path, states) for path in paths})
            # Not flushed: as soon as this file exists, rank 0 may rename the folder.
            typed_json.write(part(temporary, self.world.rank), share, flushed=False)
            if self.world.is_main:
                self.complete(step, folder, temporary)
            while not folder.is_dir():  # the save is over on all ranks at once, for `check` and `finish`
                self.wait()
        except BaseException as error:
            self.error = disk.full(folder, "while it was written") if disk.is_full(error) else error
            for path in paths:  # make room, so that the error can be written
                path.unlink(missing_ok=True)

    def complete(self, step: int, folder: Path, temporary: Path) -> None:
        """Wait for all ranks' files, give the checkpoint its manifest and its name, and remove the oldest (rank 0)."""
        parts = [part(temporary, rank) for rank in range(self.world.world_size)]
        while not all(path.is_file() for path in parts):
            self.wait()
        entries = {name: entry for path in parts for name, entry in typed_json.read(path, Share).files.items()}
        world_size, identity = self.world.world_size, self.run.identity()
        manifest = Manifest(step=step, world_size=world_size, files=entries, run=identity)
        checkpoints.write_manifest(temporary, manifest)
        for path in parts:
            path.unlink()
        # In this order, flushed to disk each time: a folder with the name of a checkpoint is complete, and the
        # checkpoint that `latest` names exists, even after a power cut.
        if self.run.metrics.is_file():
            files.flush(self.run.metrics)  # a run that resumes here needs the lines of all steps before
        files.flush(temporary)
        temporary.rename(folder)
        files.flush(folder.parent)
        files.write_whole(self.run.checkpoints / "latest", folder.name + "\n")
        self.remove_old()

    def wait(self) -> None:
        """Wait a moment for another rank. Raises RunFailed if the run has failed, or this save is given up."""
        if self.is_given_up:
            raise RunFailed("")
        if failure := self.run.failure():
            raise RunFailed(failure.reason, failure.kind)
        time.sleep(POLL_S)


def written(path: Path, states: dict[Path, Any]) -> CheckpointFile:
    """Write a state to its file, and flush it to disk. Return the file's size and hash. Raises the state if an error.

    The state is taken out of `states`: its memory is free again as soon as it is written.
    """
    state = states.pop(path)
    if isinstance(state, Exception):
        raise state
    with disk.flushing(path):
        if state is not WRITTEN:
            torch.save(state, path)
        del state
        return resume.describe(path)


def check_room(folder: Path, needed: int, free: int) -> None:
    """Raise RunFailed if a checkpoint needs more bytes than are free on the disk."""
    if free < needed:
        what = f"it needs {disk.size(needed)}, {disk.size(free)} are free, {disk.size(needed - free)} are missing"
        raise disk.full(folder, what)


def no_room_for_copies(ranks: list[tuple[int, dict[str, int]]]) -> str:
    """Return, in words, that main memory has no room for the copies of all ranks; "" if it has.

    `ranks`: for each, the bytes that it copies, and the free bytes of its machine and containers by name. Ranks whose
    limits have the same name share them.
    """
    for name in dict.fromkeys(name for _, limits in ranks for name in limits):
        needed = sum(size for size, limits in ranks if name in limits)
        free = min(limits[name] for _, limits in ranks if name in limits)
        if needed > COPY_SHARE * free:
            return f"the copy of a checkpoint needs {disk.size(needed)} of main memory, {disk.size(free)} are free"
    return ""


def part(folder: Path, rank: int) -> Path:
    """Return the file in which a rank lists its files of a checkpoint."""
    return folder / f".rank-{rank}.json"
