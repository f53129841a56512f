"""The manifest of a bundle: for what it was made, and the hash of every file in it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sft.host.bootstrap import bundle


@dataclass(frozen=True)
class Manifest:
    """What a bundle is for, and its files: SHA-256 by their paths in it."""

    python: str  # such as 3.12
    backend: str
    torch: str
    with_python: bool  # a Python for machines that have none of that version
    dev: bool
    files: dict[str, str] = field(default_factory=dict)


def write(folder: Path, about: Manifest) -> None:
    """Hash every file and write the manifest, last of all."""
    files = {str(path.relative_to(folder)): digest(path) for path in content(folder)}
    text = json.dumps(asdict(about) | {"files": files}, indent=1) + "\n"
    (folder / bundle.MANIFEST).write_text(text, encoding="utf-8")


def read(folder: Path) -> Manifest:
    """Return a bundle's manifest."""
    return Manifest(**json.loads((folder / bundle.MANIFEST).read_text(encoding="utf-8")))


def damaged(folder: Path) -> list[str]:
    """Return the files that are missing or are not as they were written."""
    files = read(folder).files
    return [name for name in files if not (folder / name).is_file() or digest(folder / name) != files[name]]


def content(folder: Path) -> Iterator[Path]:
    """Yield every file of a bundle but the manifest, in a fixed order."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path != folder / bundle.MANIFEST:
            yield path


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_caches(folder: Path, models: Path, data: Path) -> None:
    """Copy a bundle's models and data to where runs look for them. What is there already stays."""
    for name, target in ((bundle.MODELS, models), (bundle.DATA, data)):
        for path in sorted((folder / name).glob("*")):
            if not (target / path.name).exists():
                if path.is_dir():
                    shutil.copytree(path, target / path.name, symlinks=True)
                else:
                    shutil.copy2(path, target / path.name)
