"""`OFFLINE=1`: everything from the folder that `make bundle` has written, nothing from a network."""

import json
import os
import shutil
from pathlib import Path
from typing import MutableMapping

from sft.host.bootstrap import switch
from sft.host.bootstrap.stop import stop

DEFAULT = "bundle"  # BUNDLE names another folder
WHEELS, PYTHON, MODELS, DATA, MANIFEST = "wheels", "python", "models", "data", "manifest.json"


def is_asked_for(environment: "MutableMapping[str, str]") -> bool:
    """Tell whether OFFLINE is set. Exits if it is neither 1 nor 0."""
    return switch.is_on("OFFLINE", environment)


def folder(environment: "MutableMapping[str, str]") -> Path:
    """Return the bundle's folder."""
    return Path(environment.get("BUNDLE") or DEFAULT).absolute()


def use(environment: "MutableMapping[str, str]") -> None:
    """If OFFLINE is set, have pip, uv and the hub's library use the folder and no network. Exits if it is not there."""
    if not is_asked_for(environment):
        return
    place = folder(environment)
    if not (place / MANIFEST).is_file():
        stop(f"OFFLINE=1: {place} has no {MANIFEST}; `make bundle` on a machine with a network writes it")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX", "UV_DEFAULT_INDEX"):
        environment.pop(name, None)
    environment["PIP_CONFIG_FILE"] = os.devnull
    environment["PIP_NO_INDEX"] = environment["UV_OFFLINE"] = "1"
    environment["PIP_FIND_LINKS"] = environment["UV_FIND_LINKS"] = str(place / WHEELS)
    environment["HF_HUB_OFFLINE"] = "1"


def python(environment: "MutableMapping[str, str]") -> str:
    """Return the version of Python that a bundle in use is for, such as 3.12; "" without one."""
    if not is_asked_for(environment):
        return ""
    about = json.loads((folder(environment) / MANIFEST).read_text(encoding="utf-8"))
    return str(about["python"])


def take_python(environment: "MutableMapping[str, str]", target: Path) -> None:
    """Copy the bundle's Python to where uv keeps those of the project: the folder may be on a disk that goes away."""
    for path in (folder(environment) / PYTHON).glob("cpython-*"):
        if not path.is_symlink() and not (target / path.name).exists():  # links are to where it was downloaded
            shutil.copytree(str(path), str(target / path.name), symlinks=True)
