"""Which checkpoints of a run are whole, by names and sizes; the ranks verify every byte before they load one."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def name_of(step: int) -> str:
    """Return the folder name of the checkpoint after `step` steps."""
    return f"step-{step:06d}"


def steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in `folder`, oldest first. `step-NNNNNN.damaged` is none."""
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
    """Tell whether the manifest is as it was written and every file has the size that stands there."""
    content = manifest(checkpoint)
    if content is None:
        return False
    try:
        return all((checkpoint / name).stat().st_size == entry["bytes"] for name, entry in content["files"].items())
    except (OSError, KeyError, TypeError, AttributeError):
        return False


def manifest(checkpoint: Path) -> dict[str, Any] | None:
    """Return the manifest of a checkpoint: step, world_size and files. None if it is not what was written."""
    try:
        content = json.loads((checkpoint / MANIFEST).read_text())
        return content if content.pop("blake2b") == seal(content) else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def seal(content: dict[str, Any]) -> str:
    """Return the hash of a manifest's content."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
