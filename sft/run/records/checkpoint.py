"""The files in a checkpoint that say which others belong to it."""

from __future__ import annotations

from sft.run.light import dataclass
from sft.run.typed_json import Part, Record


@dataclass(frozen=True, kw_only=True)
class CheckpointFile(Part):
    """A file of a checkpoint."""

    bytes: int
    blake2b: str


@dataclass(frozen=True, kw_only=True)
class Share(Record):
    """`.rank-R.json` in a checkpoint that is being written: the files of one rank, by name."""

    files: dict[str, CheckpointFile]


@dataclass(frozen=True, kw_only=True)
class Manifest(Record):
    """`manifest.json` of a checkpoint."""

    step: int
    world_size: int
    files: dict[str, CheckpointFile]
    run: str = ""  # its identity; empty in checkpoints of an earlier version
    blake2b: str = ""  # of the manifest itself: sft/run/checkpoints.py
