"""A folder that uv takes for a mirror of its Pythons, with the Python that runs this packed as theirs are.

It shows uv's download from UV_PYTHON_INSTALL_MIRROR without a network. The hash is left out of the list, because the
file is not the one that uv knows.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
ORIGIN = "https://github.com/astral-sh/python-build-standalone/"
LEFT_OUT = shutil.ignore_patterns("__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "*.a")


class Row(TypedDict):
    """One Python in uv's list."""

    key: str
    url: str
    implementation: str


@dataclass(frozen=True)
class Mirror:
    """The mirror's folder, and the list of downloads for UV_PYTHON_DOWNLOADS_JSON_URL."""

    folder: Path
    downloads: Path

    def environment(self, folder: str) -> dict[str, str]:
        """Return what uv must be told if the mirror is seen at `folder`."""
        return {
            "UV_PYTHON": VERSION,
            "UV_PYTHON_INSTALL_MIRROR": f"file://{folder}/pythons",
            "UV_PYTHON_DOWNLOADS_JSON_URL": f"{folder}/downloads.json",
        }


def make(folder: Path, uv: str) -> Mirror:
    """Pack this Python into `folder` under the address of the same version in uv's list."""
    version = ".".join(map(str, sys.version_info[:3]))
    command = [uv, "python", "list", "--only-downloads", "--all-versions", "--output-format", "json", version]
    own = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    rows: list[Row] = json.loads(subprocess.run(command, env=own, capture_output=True, text=True, check=True).stdout)
    row = next(row for row in rows if row["implementation"] == "cpython" and row["key"].endswith("-gnu"))
    # uv replaces the beginning of this address by the mirror's; its list may name a mirror of its own.
    address = ORIGIN + row["url"].partition("/python-build-standalone/")[2]
    place, name = row["url"].replace("%2B", "+").rsplit("/", 2)[1:]
    (folder / "pythons" / place).mkdir(parents=True)
    with tarfile.open(folder / "pythons" / place / name, "w:gz", compresslevel=1) as archive:
        archive.add(layout(folder / "python"), "python")
    about = {
        "name": "cpython", "arch": {"family": "x86_64", "variant": None}, "os": "linux", "libc": "gnu",
        "major": sys.version_info[0], "minor": sys.version_info[1], "patch": sys.version_info[2], "prerelease": "",
        "url": address, "sha256": None, "variant": None, "build": place,
    }  # fmt: skip
    (folder / "downloads.json").write_text(json.dumps({row["key"]: about}))
    return Mirror(folder, folder / "downloads.json")


def layout(folder: Path) -> Path:
    """Copy this Python to `folder` as the builds that uv gets are laid out."""
    (folder / "bin").mkdir(parents=True)
    shutil.copy2(Path(sys.base_prefix, "bin", f"python{VERSION}").resolve(), folder / "bin" / f"python{VERSION}")
    for name in ("python3", "python"):
        (folder / "bin" / name).symlink_to(f"python{VERSION}")
    shutil.copytree(sysconfig.get_path("stdlib"), folder / "lib" / f"python{VERSION}", ignore=LEFT_OUT, symlinks=True)
    for library in libraries():
        shutil.copy2(library, folder / "lib")
    return folder


def library_folders() -> list[Path]:
    """Return the folder in which this Python looks for its shared library; none if it has none."""
    return [Path(str(sysconfig.get_config_var("LIBDIR")))] if libraries() else []


def libraries() -> list[Path]:
    """Return the shared library of this Python; none if it has none."""
    folder = Path(sysconfig.get_config_var("LIBDIR") or "")
    return sorted(folder.glob(f"libpython{VERSION}.so.*")) if sysconfig.get_config_var("Py_ENABLE_SHARED") else []
