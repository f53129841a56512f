"""The state that DeepSpeed saves on one rank: taken over, copied to main memory, or written piece by piece."""

from __future__ import annotations

import copy
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from torch._subclasses.fake_tensor import FakeTensorMode

PIECE_BYTES = 64 * 2**20  # of a shard in main memory at a time, if there is no room for a copy


class Collector(TorchCheckpointEngine):
    """Stands in for the writer of DeepSpeed's engine: `save` keeps each state instead, and `take` hands them over."""

    def __init__(self) -> None:
        super().__init__()
        self.shards: dict[Path, Any] = {}

    def save(self, state_dict: Any, path: str) -> None:
        """Keep a state and its path. The next step will change its tensors."""
        self.shards[Path(path)] = state_dict

    def preserves_storage_sharing(self) -> bool:
        """Tell DeepSpeed not to clone tensor views first: `copied` copies every tensor anyway."""
        return False

    def take(self) -> dict[Path, Any]:
        """Return the states by path, and forget them."""
        taken, self.shards = self.shards, {}
        return taken


def replaced(value: Any, by: Callable[[torch.Tensor], Any], seen: dict[Hashable, tuple[torch.Tensor, Any]]) -> Any:
    """Return a copy of a nested value with every tensor replaced. A tensor that occurs twice is replaced once.

    `seen` gets the tensors and their replacements, in the order in which pickle comes to them.
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
    """Return a copy in main memory, which the next steps of training do not change."""
    return replaced(value, lambda tensor: tensor.to("cpu", copy=True, memory_format=torch.contiguous_format), {})


def tensor_bytes(value: Any) -> int:
    """Return the bytes that a copy's tensors would take."""
    seen: dict[Hashable, tuple[torch.Tensor, Any]] = {}
    replaced(value, lambda tensor: None, seen)
    return sum(tensor.nbytes for tensor, _ in seen.values())


def write_in_pieces(value: Any, path: Path) -> None:
    """Write what ``torch.save(copied(value), path)`` would, with only PIECE_BYTES of it in main memory at a time.

    torch writes the file with gaps for the tensors' content. The gaps are filled after that, piece by piece.
    """
    seen: dict[Hashable, tuple[torch.Tensor, Any]] = {}
    form = FakeTensorMode()

    def without_content(tensor: torch.Tensor) -> torch.Tensor:
        with form:
            return torch.empty(tensor.shape, dtype=tensor.dtype)

    # Tensors of torch's fake mode have a shape and a type, and no memory.
    skeleton = replaced(value, without_content, seen)
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(skeleton, path)
    # torch numbers the tensors in the order in which pickle comes to them, which is that of `seen`. To be sure, compare
    # their sizes with those of the gaps.
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
