"""Which checkpoints of a run are whole, by names and sizes; the ranks verify every byte before they load one."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

from sft.run import files, typed_json
from sft.run.records import Manifest

MANIFEST = "manifest.json"


def name_of(step: int) -> str:
    """Return the folder name of the checkpoint after `step` steps."""
    return f"step-{step:06d}"


def steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in `folder`, oldest first. `step-NNNNNN.damaged` does not count."""
    try:
        names = [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    matches = [re.fullmatch(r"step-(\d+)", name) for name in names]
    return sorted(int(match[1]) for match in matches if match)


def newest_whole(folder: Path, run: str) -> int | None:
    """Return the step of the newest whole checkpoint in `folder`, or None if there is none. `run`: see `is_whole`."""
    return next((step for step in reversed(steps(folder)) if is_whole(folder / name_of(step), run)), None)


def is_whole(checkpoint: Path, run: str) -> bool:
    """Tell whether the manifest is undamaged and of the run with this identity, and every file has its size."""
    found = manifest(checkpoint)
    if found is None or whose(found, checkpoint, run):
        return False
    try:
        return all((checkpoint / name).stat().st_size == file.bytes for name, file in found.files.items())
    except OSError:
        return False


def whose(manifest: Manifest, checkpoint: Path, run: str) -> str:
    """Return that a checkpoint is not of its folder's step, or not of the run with this identity; "" if it is of both.

    Somebody may have renamed it, or copied it from another run: its weights would be trained on as if they were here.
    """
    if checkpoint.name != name_of(manifest.step):
        return f"it is the checkpoint after step {manifest.step}"
    return "it is another run's" if manifest.run and run and manifest.run != run else ""


def manifest(checkpoint: Path) -> Manifest | None:
    """Return the manifest of a checkpoint, or None if it is missing or damaged."""
    try:
        content = files.read_json(checkpoint / MANIFEST)
        if content.pop("blake2b", None) != seal(content):
            return None
        return typed_json.read(checkpoint / MANIFEST, Manifest)
    except (OSError, files.Unreadable):
        return None


def write_manifest(checkpoint: Path, manifest: Manifest) -> None:
    """Write the manifest of a checkpoint, with the hash of its own content."""
    content = typed_json.content_of(manifest)
    del content["blake2b"]
    typed_json.write(checkpoint / MANIFEST, replace(manifest, blake2b=seal(content)))


def seal(content: dict[str, object]) -> str:
    """Return the hash of a manifest's content, by which a damaged manifest is recognised."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
