"""What the user wrote: NAME=value pairs of `.env`, of the environment and behind `make`. Strings, unchecked.

Apart from the settings because a look at a run needs only a folder's name, and building the settings takes a quarter
of a second.
"""

from __future__ import annotations

import os
from pathlib import Path

from dotenv import dotenv_values

from sft.errors import UserError

ENV_FILE = Path(".env")
OF_MAKE = {"PYTHON"}  # the Makefile's own variables
OF_COMPOSE = {"SFT_UID", "SFT_GID", "SFT_IMAGE", "BASE_IMAGE", "FLASH_ATTN"}  # docker-compose.yml's own ones


def from_file(path: Path = ENV_FILE) -> dict[str, str]:
    """Return the variables of an env file that are not empty; none where there is no file. Raises UserError."""
    try:
        values = dotenv_values(path, interpolate=False) if path.is_file() else {}
    except PermissionError:
        raise UserError(
            f"{path}: cannot be read by user {os.geteuid()}; make it that user's, or set SFT_UID to its owner"
        ) from None
    return {name: value for name, value in values.items() if value}


def behind_make() -> list[str]:
    """Return the names given behind `make`, which the Makefile passes on as MAKE_SETTINGS."""
    names = [word.split("=")[0].rstrip(":") for word in os.environ.get("MAKE_SETTINGS", "").split() if "=" in word]
    return [name for name in names if name not in OF_MAKE]


def runs_path() -> Path:
    """Return RUNS_PATH, from the environment or `.env`."""
    return Path(os.environ.get("RUNS_PATH") or from_file().get("RUNS_PATH") or "runs")


def is_of_compose(name: str) -> bool:
    """Tell whether a variable is docker compose's own, which reads the same `.env`, or one of docker-compose.yml's."""
    return name in OF_COMPOSE or name.startswith("COMPOSE_")
