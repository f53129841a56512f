"""What an installation that was killed leaves: packages that look installed and are not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path


def remove(packages: Path) -> Iterator[str]:
    """Remove the leftovers in a site-packages folder; yield the names of the packages that are only half there.

    pip writes RECORD last. Without it a package counts as installed, with whatever files it has. And a name that
    begins with `~` is a package that pip was replacing.
    """
    for path in list(packages.glob("~*")):
        delete(path)
    for path in list(packages.glob("*.dist-info")):
        if not (path / "RECORD").is_file():
            delete(path)
            yield path.name.split("-")[0]


def delete(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
