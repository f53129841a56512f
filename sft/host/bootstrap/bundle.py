"""`OFFLINE=1`: everything from a folder made on a machine with a network, nothing from a network."""

import os
from pathlib import Path
from typing import MutableMapping

from sft.host.bootstrap.stop import stop

DEFAULT = "bundle"  # BUNDLE names another folder
WHEELS, PYTHON, MANIFEST = "wheels", "python", "manifest.json"


def is_asked_for(environment: "MutableMapping[str, str]") -> bool:
    """Tell whether OFFLINE is set."""
    return environment.get("OFFLINE", "").lower() not in ("", "0", "false", "no", "off")


def use(environment: "MutableMapping[str, str]") -> None:
    """If OFFLINE is set, have pip, uv and the hub's library use the folder and no network. Exits if it is not there."""
    if not is_asked_for(environment):
        return
    folder = Path(environment.get("BUNDLE") or DEFAULT).absolute()
    if not (folder / MANIFEST).is_file():
        stop(f"OFFLINE=1: {folder} has no {MANIFEST}; it is made on a machine with a network")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX", "UV_DEFAULT_INDEX"):
        environment.pop(name, None)
    environment["PIP_CONFIG_FILE"] = os.devnull
    environment["PIP_NO_INDEX"] = environment["UV_NO_INDEX"] = environment["UV_OFFLINE"] = "1"
    environment["PIP_FIND_LINKS"] = environment["UV_FIND_LINKS"] = str(folder / WHEELS)
    environment["HF_HUB_OFFLINE"] = "1"
