"""NAME=value pairs as the user wrote them: in `.env`, in the environment, behind `make`. Strings, unchecked.

Apart from the settings because a look at a run needs only a folder's name, and building the settings takes a quarter
of a second.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

from dotenv.parser import parse_stream

from sft.errors import UserError

ENV_FILE = Path(".env")
# The Makefile's own variables, and those that tell a host its place (sft/host/launch/rank_variables.py).
OF_MAKE = {"PYTHON", "OFFLINE", "BUNDLE", "TORCH_BACKEND", "YES", "NODE_RANK", "MASTER_ADDR"}
# docker-compose.yml's own ones
OF_COMPOSE = {"SFT_UID", "SFT_GID", "SFT_IMAGE", "BASE_IMAGE", "FLASH_ATTN", "QLORA", "TORCH_BACKEND"}


def from_file(path: Path = ENV_FILE) -> dict[str, str]:
    """Return the variables of an env file that are not empty; none where there is no file. The last value counts.

    Raises UserError with a line for each one that cannot be read. The line itself may hold a key and is not repeated.
    """
    try:
        text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    except PermissionError:
        owner = path.stat().st_uid
        remedy = f"set SFT_UID={owner} in it" if owner else "`make setup LAUNCHER=compose` as root hands it over"
        raise UserError(f"{path}: cannot be read by user {os.geteuid()}; {remedy}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    values, problems = {}, []
    for found in parse_stream(io.StringIO(text)):
        if found.error or (found.key and found.value is None):
            problems.append(f"{path}:{found.original.line}: is not NAME=value; fix the line, or put # before it")
        elif found.key and found.value:
            values[found.key] = found.value
        elif found.key:
            values.pop(found.key, None)
    if problems:
        raise UserError("\n".join(problems))
    return values


def around(names: list[str]) -> dict[str, str]:
    """Return the settings in the environment that are not empty, by their names as fields.

    A number in COLUMNS is the width of the terminal, which shells export under the same name.
    """
    found = {name: os.environ[name.upper()] for name in names if os.environ.get(name.upper())}
    if found.get("columns", "").strip().isdigit():
        del found["columns"]
    return found


def words_behind_make() -> dict[str, str]:
    """Return the NAME=value words given behind `make` by their names; the Makefile passes them on as MAKE_SETTINGS."""
    words = re.split(r"(?<!\\)\s+", os.environ.get("MAKE_SETTINGS", ""))  # make writes a backslash before a value's own
    return {word.split("=")[0].rstrip(":"): word for word in words if "=" in word}


def replaced_by_make() -> list[str]:
    """Return a line for every word behind `make` that holds a $: make has replaced it and what follows it.

    MAKE_SETTINGS has each $ that was typed twice, and two typed ones are one in the value.
    """
    remedy = "make replaces it and what follows it; write $$ for each $"
    words = words_behind_make().items()
    return [
        f"{name}: holds a $ that stands alone; {remedy}"
        for name, word in words
        if any(len(run) % 4 for run in re.findall(r"\$+", word))
    ]


def emptied() -> set[str]:
    """Return the names that have an empty value behind `make`, which empties what `.env` says."""
    return {name for name, word in words_behind_make().items() if word.endswith("=") and not os.environ.get(name)}


def of_user(name: str) -> str:
    """Return a variable as docker compose finds it: from the environment, or `.env`."""
    return os.environ.get(name) or ("" if name in emptied() else from_file().get(name, ""))


def behind_make() -> list[str]:
    """Return the names given behind `make` that must be settings."""
    return [name for name in words_behind_make() if name not in OF_MAKE]


def take_options(names: set[str]) -> dict[str, str]:
    """Return the values of the options given behind `make`, such as NAME=x of `make monitor NAME=x`.

    Only words behind `make` are options: a NAME of the shell's own environment is not. The words move from
    MAKE_SETTINGS to MAKE_OPTIONS, so that neither this process nor its children take them for settings. Raises
    UserError for any word that make has changed: only here all of them stand together.
    """
    if problems := replaced_by_make():
        raise UserError("\n".join(problems))
    words = words_behind_make()
    options = {name: word for name, word in words.items() if name in names}
    if options:
        os.environ["MAKE_SETTINGS"] = " ".join(word for name, word in words.items() if name not in names)
        os.environ["MAKE_OPTIONS"] = " ".join(options.values())
    return {name: os.environ.get(name, "") for name in options}  # make exports them, as it does the settings


def runs_path() -> Path:
    """Return RUNS_PATH, from the environment or `.env`."""
    return expanded(of_user("RUNS_PATH") or "runs")


def expanded(text: str | Path) -> Path:
    """Return a path with `~` as the home folder; the `~` of an unknown user stays."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def of_named_run(text: str) -> str:
    """Return a path through `runs/latest` with the name of the run that it points to now: the next run moves the link.

    >>> of_named_run("runs/latest/final")
    'runs/20261127-031500-tiny/final'
    """
    parts = text.split("/")
    for i in [i for i, part in enumerate(parts) if part == "latest"]:
        path = expanded("/".join(parts[: i + 1]))
        if is_there(path) and path.is_symlink() and "/" not in (name := os.readlink(path)):
            parts[i] = name
    return "/".join(parts)


def is_there(path: Path) -> bool:
    """Tell whether a file or folder is there; an impossible path is not there."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def in_container() -> str:
    """Return the words that say why a file is not there, in a container of docker-compose.yml; otherwise ""."""
    return " in this container, which sees data/, models/ and runs/ alone" if os.environ.get("SFT_CONTAINER") else ""


def is_of_compose(name: str) -> bool:
    """Tell whether a variable is docker compose's own, which reads the same `.env`, or one of docker-compose.yml's."""
    return name in OF_COMPOSE or name.startswith("COMPOSE_")
