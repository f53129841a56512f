"""Save while training continues: every rank copies its shards to main memory, and a thread writes them.

Where main memory has no room for the copies of all its ranks, training waits while they write their shards in pieces.

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
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from torch._subclasses.fake_tensor import FakeTensorMode

from sft import resources
from sft.errors import RunFailed
from sft.run import checkpoints, files
from sft.run.directory import Run
from sft.trainer import distributed
from sft.trainer.checkpoint import disk, resume
from sft.trainer.distributed import World

POLL_S = 0.02
# What a shard needs beyond its tensors: names, shapes and the alignment of each tensor.
MARGIN = 1.01
MARGIN_BYTES = 256 * 1024
COPY_SHARE = 0.9  # of the free main memory that copies may take
PIECE_BYTES = 64 * 2**20  # in main memory at a time on each rank where there is no room for copies
WRITTEN = object()  # takes the place of what a file has already got


class Collector(TorchCheckpointEngine):
    """Takes the place of DeepSpeed's writer in its engine: `save` keeps what is to be written, and writes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.shards: dict[Path, Any] = {}

    def save(self, state_dict: Any, path: str) -> None:
        """Keep what is to be written to `path`; the tensors in it are those that training goes on to change."""
        self.shards[Path(path)] = state_dict

    def preserves_storage_sharing(self) -> bool:
        """Tell DeepSpeed not to clone parts of larger tensors first: what is written is a copy of its own."""
        return False

    def take(self) -> dict[Path, Any]:
        """Return what is to be written, by path, and forget it."""
        taken, self.shards = self.shards, {}
        return taken


def replaced(value: Any, by: Callable[[torch.Tensor], Any], seen: dict[Hashable, tuple[torch.Tensor, Any]]) -> Any:
    """Return a copy of a value with every tensor replaced; one that is in it twice is replaced once.

    `seen` gets the tensors and what replaces them, in the order in which pickle meets them.
    """
    if isinstance(value, torch.Tensor):
        key = (value.data_ptr(), value.dtype, value.shape, value.stride()) if value.numel() else id(value)
        if key not in seen:
            seen[key] = value, by(value.detach())
        return seen[key][1]
    if type(value) in (dict, OrderedDict):
        return type(value)((name, replaced(part, by, seen)) for name, part in value.items())
    if type(value) in (list, tuple):
        return type(value)(replaced(part, by, seen) for part in value)
    return copy.deepcopy(value)


def copied(value: Any) -> Any:
    """Return a copy in main memory that shares nothing with what training changes."""
    return replaced(value, lambda tensor: tensor.to("cpu", copy=True, memory_format=torch.contiguous_format), {})


def tensor_bytes(value: Any) -> int:
    """Return the bytes of a copy's tensors."""
    seen: dict[Hashable, tuple[torch.Tensor, Any]] = {}
    replaced(value, lambda tensor: None, seen)
    return sum(tensor.nbytes for tensor, _ in seen.values())


def write_in_pieces(value: Any, path: Path) -> None:
    """Write what ``torch.save(copied(value), path)`` would, with PIECE_BYTES of it in main memory at a time.

    torch writes the file with gaps for the tensors, which are then filled.
    """
    seen: dict[Hashable, tuple[torch.Tensor, Any]] = {}
    form = FakeTensorMode()

    def without_content(tensor: torch.Tensor) -> torch.Tensor:
        with form:
            return torch.empty(tensor.shape, dtype=tensor.dtype)

    skeleton = replaced(value, without_content, seen)
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(skeleton, path)
    tensors = [tensor for tensor, _ in seen.values()]
    with zipfile.ZipFile(path) as archive:
        gaps = {item.filename.partition("/data/")[2]: item.file_size for item in archive.infolist()}
    del gaps[""]  # files that hold no tensor
    if gaps != {str(i): tensor.nbytes for i, tensor in enumerate(tensors)}:
        raise RuntimeError(f"{path}: torch has written other tensors than it was given")
    reader: Any = torch._C.PyTorchFileReader(str(path))
    with path.open("r+b") as file:
        for i, tensor in enumerate(tensors):
            file.seek(reader.get_record_offset(f"data/{i}"))
            flat = tensor.detach().contiguous().view(-1)
            for piece in flat.split(max(1, PIECE_BYTES // tensor.itemsize)) if len(flat) else ():
                file.write(memoryview(piece.cpu().view(torch.uint8).numpy()))


class Saver:
    """Saves the checkpoints of one engine."""

    def __init__(self, engine: Any, run: Run, keep: int, world: World, root: Path = resources.ROOT) -> None:
        """Take over what the engine writes. The newest `keep` checkpoints stay; `root`: see sft/resources.py."""
        self.engine, self.run, self.keep, self.world, self.root = engine, run, keep, world, root
        self.collector = engine.checkpoint_engine = Collector()
        self.waits = False  # training does, while a checkpoint is written
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None
        self.is_given_up = False
        if world.is_main:
            self.remove_old()  # a lower KEEP_CHECKPOINTS makes room before the first save, as a full disk's line says

    def remove_old(self) -> None:
        """Remove the checkpoints before the newest ones that stay."""
        for old in checkpoints.steps(self.run.checkpoints)[: -self.keep]:
            files.remove_folder(self.run.checkpoints / checkpoints.name_of(old))

    def start(self, step: int, more_bytes: int = 0) -> None:
        """Copy weights and optimizer after `step` steps and begin to write them, after the save before (all ranks).

        Raises RunFailed, on all ranks alike, if the disk has no room for it and `more_bytes`.
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
        shards = self.collector.take()
        sizes = [tensor_bytes(state) for state in shards.values()]
        needed = MARGIN * sum(sizes) + MARGIN_BYTES * len(sizes)
        free = shutil.disk_usage(self.run.checkpoints).free
        ranks = distributed.gather((needed, sum(sizes), resources.memory_limits(self.root), free))
        check_room(folder, int(sum(rank[0] for rank in ranks)) + more_bytes, min(rank[3] for rank in ranks))
        if lacking := no_room_for_copies([(size, limits) for _, size, limits, _ in ranks]):
            self.write_now(shards, lacking)
        else:
            shards = {path: copied(state) for path, state in shards.items()}
        self.thread = threading.Thread(target=self.write, args=(step, shards), daemon=True)
        self.thread.start()

    def write_now(self, shards: dict[Path, Any], lacking: str) -> None:
        """Write this rank's files while training waits. What breaks is kept for `write`."""
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

    def save_before_export(self, step: int, export_bytes: int) -> None:
        """Save after the last step, and wait for it: an export that fails then costs no step (all ranks).

        A disk without room for both it and the export has room for the export: the checkpoint is left out then.
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
        """Remove what is there of a checkpoint that could not be written, and say so (all ranks)."""
        self.error = None
        reasons = [reason for reason in distributed.gather(None if error is None else str(error)) if reason]
        if self.world.is_main:
            shutil.rmtree(self.temporary(step), ignore_errors=True)
            print(f"no checkpoint before the export: {reasons[0]}", flush=True)

    def forget(self, step: int) -> None:
        """Remove a checkpoint that has done its work, if it is there (rank 0)."""
        folder = self.run.checkpoints / checkpoints.name_of(step)
        if not folder.is_dir():
            return
        files.remove_folder(folder)
        left = checkpoints.steps(self.run.checkpoints)
        if left:
            files.write_whole(self.run.checkpoints / "latest", checkpoints.name_of(left[-1]) + "\n")
        else:
            (self.run.checkpoints / "latest").unlink(missing_ok=True)

    # In the thread

    def write(self, step: int, states: dict[Path, Any]) -> None:
        """Write this rank's files, and wait for the checkpoint, which rank 0 makes of all ranks' files.

        A file that training has waited for is WRITTEN already, or has the error that kept it from that.
        """
        folder, temporary = self.run.checkpoints / checkpoints.name_of(step), self.temporary(step)
        paths = list(states)
        try:
            for path in paths:
                state = states.pop(path)
                if isinstance(state, Exception):
                    raise state
                if state is not WRITTEN:
                    torch.save(state, path)
            entries = {path.name: resume.describe(path) for path in paths}
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
        resume.write_manifest(temporary, content)
        for path in parts:
            path.unlink()
        if self.run.metrics.is_file():
            files.flush(self.run.metrics)  # a run that resumes here must find the lines of all steps before
        files.flush(temporary)
        temporary.rename(folder)
        files.flush(folder.parent)
        files.write_whole(self.run.checkpoints / "latest", folder.name + "\n")
        self.remove_old()

    def wait(self) -> None:
        """Wait a moment for another rank. Raises RunFailed if none will come: the run is broken, or this save."""
        if self.is_given_up:
            raise RunFailed("")
        if reason := self.run.failure():
            raise RunFailed(reason)
        time.sleep(POLL_S)


def check_room(folder: Path, needed: int, free: int) -> None:
    """Raise RunFailed if fewer bytes are free than a checkpoint needs."""
    if free < needed:
        what = f"it needs {disk.size(needed)}, {disk.size(free)} are free, {disk.size(needed - free)} are missing"
        raise disk.full(folder, what)


def no_room_for_copies(ranks: list[tuple[int, dict[str, int]]]) -> str:
    """Return how much main memory is missing for the copies of all ranks, or nothing if there is room.

    `ranks`: the bytes that each copies, and what its machine and containers have left; ranks share what has one key.
    """
    for name in dict.fromkeys(name for _, limits in ranks for name in limits):
        needed = sum(size for size, limits in ranks if name in limits)
        free = min(limits[name] for _, limits in ranks if name in limits)
        if needed > COPY_SHARE * free:
            return f"the copy of a checkpoint needs {disk.size(needed)} of main memory, {disk.size(free)} are free"
    return ""


def part(folder: Path, rank: int) -> Path:
    """Return the file that says which files of a checkpoint a rank has written."""
    return folder / f".rank-{rank}.json"
