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
    except FileNotFoundError:
        return []
    matches = [re.fullmatch(r"step-(\d+)", name) for name in names]
    return sorted(int(match[1]) for match in matches if match)


def newest_whole(folder: Path) -> int | None:
    """Return the step of the newest whole checkpoint in `folder`, or None if there is none."""
    return next((step for step in reversed(steps(folder)) if is_whole(folder / name_of(step))), None)


def is_whole(checkpoint: Path) -> bool:
    """Tell whether the manifest is undamaged, and every file has the size that it says."""
    found = manifest(checkpoint)
    try:
        return found is not None and all(
            (checkpoint / name).stat().st_size == file.bytes for name, file in found.files.items()
        )
    except OSError:
        return False


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
