"""The user's own Hugging Face cache (HF_HOME): its files are linked instead of downloaded again."""

from __future__ import annotations

import os
from pathlib import Path

from sft.hub.repository import Repository


def adopt(repository: Repository) -> None:
    """Link a repository's files from the user's Hugging Face cache (HF_HOME), so that they are not downloaded again.

    The links are hard ones, which a container sees too and which stay if that cache is cleaned; on another disk they
    are symbolic. What is missing there, or out of date, is downloaded as usual.
    """
    from huggingface_hub import constants

    theirs, here = Path(constants.HF_HUB_CACHE) / repository.folder.name, repository.folder
    if not theirs.is_dir() or theirs.resolve() == here.resolve():
        return
    of_theirs, of_ours = (folder / "refs" / repository.revision for folder in (theirs, here))
    commit = of_theirs.read_text().strip() if of_theirs.is_file() else repository.revision
    if of_ours.is_file() and of_ours.read_text().strip() != commit:
        return  # what is here is of another commit, which the hub gave later
    files = [path for path in (theirs / "snapshots" / commit).rglob("*") if path.is_file()]
    for path in files:
        pointer = here / path.relative_to(theirs)
        if not pointer.exists():
            adopt_file(path, pointer, here)
    if files and of_theirs.is_file() and not of_ours.is_file():
        of_ours.parent.mkdir(parents=True, exist_ok=True)
        of_ours.write_text(commit)


def adopt_file(path: Path, pointer: Path, here: Path) -> None:
    """Link a file of a snapshot in the user's cache as `pointer`, in its layout: a pointer to a blob, or a file."""
    real = path.resolve()
    blob = here / "blobs" / real.name if path.is_symlink() else pointer
    for folder in (pointer.parent, blob.parent):
        folder.mkdir(parents=True, exist_ok=True)
    if not blob.exists():
        blob.unlink(missing_ok=True)  # a link to a file that is gone
        link(real, blob)
    if blob != pointer:
        pointer.unlink(missing_ok=True)
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))


def link(target: Path, path: Path) -> None:
    """Make `path` another name of a file; if that cannot be, on another disk or for another user's file, a pointer."""
    try:
        path.hardlink_to(target)
    except OSError:
        path.symlink_to(target)
