"""The folders for data, models and runs: made before a run, with an error for each that cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from sft.errors import SettingsError, wrong
from sft.run import owners
from sft.settings.fields import FOLDERS, Settings
from sft.settings.variables import is_there


def make_folders(settings: Settings) -> list[Path]:
    """Make the folders of data, models and runs; return the new ones.

    Raises SettingsError for those that cannot be written. Then no new folder is left behind.
    """
    problems, made = [], []
    for name in FOLDERS:
        path: Path = getattr(settings, name)
        missing = [folder for folder in (path, *path.parents) if not is_there(folder)]
        try:
            check(path)
            for folder in reversed(missing):
                folder.mkdir(exist_ok=True)
                made.append(folder)
        except OSError as error:
            problems.append(problem(name, path, error))
    if problems:
        for folder in reversed(made):
            with contextlib.suppress(OSError):  # another program has put something into it
                folder.rmdir()
        raise SettingsError(problems)
    return made


def problems(settings: Settings) -> list[str]:
    """Return a line for each of the folders that cannot be made or written; make none."""
    found = []
    for name in FOLDERS:
        path: Path = getattr(settings, name)
        try:
            check(path)
        except OSError as error:
            found.append(problem(name, path, error))
    return found


def check(path: Path) -> None:
    """Raise OSError if a folder cannot be written or, where there is none, cannot be made."""
    for place in (path, *path.parents):
        if is_there(place):
            break
        if place.is_symlink():
            raise FileNotFoundError(errno.ENOENT, f"it is a link to {os.readlink(place)}, which is not there")
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is a file" if place == path else f"{place} is a file")
    if not os.access(place, os.W_OK):
        number = errno.EROFS if owners.is_read_only(place) else errno.EACCES
        raise OSError(number, os.strerror(number))


def problem(name: str, path: Path, error: OSError) -> str:
    """Return the line for a setting's folder that cannot be written."""
    return wrong(name.upper(), path, f"cannot be written ({error.strerror})", owners.remedy(path, error))
