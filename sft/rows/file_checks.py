"""Folders whose files are not what they seem: the same rows in files of two kinds, and rows that are about pictures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sft.errors import SettingsError, wrong
from sft.rows.files import READERS, kind
from sft.settings.fields import COMPRESSED_SUFFIXES, Settings

MEDIA = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".wav", ".mp3", ".flac", ".ogg", ".m4a",
         ".mp4", ".mov", ".avi", ".mkv", ".webm")  # fmt: skip


def copies(names: Iterable[str]) -> dict[str, str]:
    """Return files that have another file's name with another suffix, with the reason why they are left out.

    train.jsonl beside train.parquet is one set of rows, exported twice: read together, each would be trained twice.
    """
    kinds = list(READERS)
    first: dict[str, str] = {}
    found = {}
    for name in sorted(names, key=lambda name: (kinds.index(kind(Path(name)) or ""), len(name), name)):
        same = first.setdefault(without_suffix(name), name)
        if same != name:
            found[name] = f"{same} has the same name"
    return found


def without_suffix(name: str) -> str:
    """Return a file's name without the suffixes that say how it is read."""
    path = Path(name)
    if path.suffix.lower() in COMPRESSED_SUFFIXES:
        path = path.with_suffix("")
    return path.with_suffix("").as_posix()


def check_media(names: Iterable[str], data: Iterable[str], settings: Settings) -> None:
    """Raise SettingsError for a data set of pictures, sound or films, which `datasets` describes in metadata files."""
    media = [name for name in names if name.lower().endswith(MEDIA)]
    about = [name for name in data if without_suffix(Path(name).name) == "metadata"]
    if media and about:
        what = f"is a data set of pictures, sound or films, such as {media[0]}, described in {about[0]}"
        remedy = f"only text is trained: give {about[0]} alone as DATASET if its texts are meant"
        raise SettingsError([wrong("DATASET", settings.dataset, what, remedy)])
