"""Who owns the files that containers write. Containers run as the user who starts them, and never as root.

If root itself calls, they run as SFT_UID, as who called sudo, or as user 1000. Then root hands over what they have to
write: folders that this call has made, the project's own folders and caches, and the run. What a user has put there,
other runs and shared folders stay whose they are.
"""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console

from sft import ROOT
from sft.errors import SettingsError, wrong
from sft.run.directory import Run
from sft.settings import variables
from sft.settings.fields import FOLDERS, Settings

DEFAULT_UID = 1000
# What this project's programs make in a folder, under names that nobody else gives; and what its libraries do.
CACHES = {"data_path": ("prepared", "demo-*"), "model_path": ("tiny-*",)}
OF_LIBRARIES = {"data_path": ("hub", "hub-cache"), "model_path": ("models--*", ".locks")}


def owner() -> tuple[int, int]:
    """Return the user and group that containers run as. Raises SettingsError for an SFT_UID that cannot be one."""
    if os.geteuid():
        return os.geteuid(), os.getegid()
    uid = number("SFT_UID", variables.of_user("SFT_UID"))
    if uid:
        return uid, number("SFT_GID", variables.of_user("SFT_GID")) or uid
    uid, gid = (int(os.environ.get(name) or 0) for name in ("SUDO_UID", "SUDO_GID"))
    return uid or DEFAULT_UID, (gid or uid) if uid else DEFAULT_UID


def number(name: str, text: str) -> int:
    """Return the id that a variable holds, 0 if it is empty. Raises SettingsError."""
    if text and not (text.isdecimal() and 0 < int(text) < 2**31):
        what = "is not a user or group that containers may run as"
        raise SettingsError([wrong(name, text, what, "use a number above 0")])
    return int(text or 0)


def say(console: Console) -> None:
    """Say whose files a run of root makes, and how to choose."""
    if os.geteuid() == 0:
        uid, _ = owner()
        console.print(f"containers run as user {named(uid)}, whose files they make; SFT_UID in .env chooses another")


def named(uid: int) -> str:
    """Return a user's number, with the name that this machine has for it."""
    try:
        return f"{uid} ({pwd.getpwuid(uid).pw_name})"
    except KeyError:
        return str(uid)


def hand_over(settings: Settings, made: Iterable[Path] = ()) -> None:
    """Hand over, if root calls, what containers have to write to of the settings' folders. `made` is this call's.

    Raises SettingsError for a folder that they cannot write to and that is not this project's.
    """
    if os.geteuid():
        return
    uid, gid = owner()
    give([*made, *own_folders(settings), *caches(settings)], uid, gid)
    problems = []
    for name in ("data_path", "model_path"):
        path = getattr(settings, name)
        if not may_write(path, uid, gid):
            what = f"user {uid}, as whom containers run, may not write there"
            problems.append(wrong(name.upper(), path, what, f"chown {uid} {path}, or set SFT_UID to its owner"))
    if problems:
        raise SettingsError(problems)


def hand_over_run(run: Run) -> None:
    """Hand over, if root calls, what root has written of a run."""
    if os.geteuid() == 0:
        give(below(run.path), *owner())


def hand_over_env_file(console: Console) -> None:
    """Hand over, if root calls, root's `.env`: the first node reads it itself after `docker compose up` by hand."""
    path = variables.ENV_FILE
    if os.geteuid() == 0 and path.is_file() and path.stat().st_uid == 0:
        uid, gid = owner()
        give([path], uid, gid)
        console.print(f"{path} belongs to user {named(uid)} now, as whom containers read it")


def own_folders(settings: Settings) -> Iterator[Path]:
    """Yield the folders of data, models and runs that are in the project's own folder, as they are by default."""
    for name in FOLDERS:
        path: Path = getattr(settings, name)
        if is_own(path):
            yield path


def is_own(path: Path) -> bool:
    """Tell whether a folder is in the project's own one, and not only a link there."""
    return ROOT in path.resolve().parents


def caches(settings: Settings) -> Iterator[Path]:
    """Yield everything in the caches that the project's programs have made."""
    for name in ("data_path", "model_path"):
        path: Path = getattr(settings, name)
        for pattern in (*CACHES[name], *(OF_LIBRARIES[name] if is_own(path) else ())):
            for cache in path.glob(pattern):
                yield from below(cache)


def below(path: Path) -> Iterator[Path]:
    """Yield a path and all below it, without following links."""
    yield path
    if path.is_dir() and not path.is_symlink():
        yield from path.rglob("*")


def give(paths: Iterable[Path], uid: int, gid: int) -> None:
    """Change the owner of those that are root's. A file with two names may be one of elsewhere, and stays."""
    for path in paths:
        try:
            found = path.lstat()
            if found.st_uid == 0 and (found.st_nlink == 1 or stat.S_ISDIR(found.st_mode)):
                os.chown(path, uid, gid, follow_symlinks=False)
        except FileNotFoundError:  # removed by another program meanwhile
            continue


def may_write(folder: Path, uid: int, gid: int) -> bool:
    """Tell whether a user may write to a folder, however it is reached: a container has it mounted."""
    asked = ["test", "-w", "."]
    return subprocess.run(asked, cwd=folder, user=uid, group=gid, extra_groups=[], check=False).returncode == 0
