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
            for folder in reversed(missing):
                folder.mkdir(exist_ok=True)
                made.append(folder)
            if not path.is_dir():
                raise NotADirectoryError(20, "it is a file")
            if not os.access(path, os.W_OK):
                number = errno.EROFS if owners.is_read_only(path) else errno.EACCES
                raise OSError(number, os.strerror(number))
        except OSError as error:
            what = f"cannot be written ({error.strerror})"
            problems.append(wrong(name.upper(), path, what, owners.remedy(path, error)))
    if problems:
        for folder in reversed(made):
            with contextlib.suppress(OSError):  # another program has put something into it
                folder.rmdir()
        raise SettingsError(problems)
    return made
