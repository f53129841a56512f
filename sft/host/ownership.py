"""Who owns the files that containers write. Containers run as the user who starts them, and never as root.

If root calls, they run as SFT_UID, as the user who called sudo, or as user 1000. Root then gives that user what
containers write to: folders that this call has made, the project's own folders and caches, and the run. Files of users,
other runs and shared folders keep their owner.
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
# What this project makes in a folder, under names that nobody else uses, and what its libraries make there.
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
    """Return the id in a variable, 0 if it is empty. Raises SettingsError."""
    if text and not (text.isdecimal() and 0 < int(text) < 2**31):
        what = "cannot be the user or group of containers"
        raise SettingsError([wrong(name, text, what, "use a number above 0")])
    return int(text or 0)


def say(console: Console) -> None:
    """Print who will own the files of a run that root starts, and how to choose another user."""
    if os.geteuid() == 0:
        uid, _ = owner()
        console.print(f"containers run as user {named(uid)}, whose files they make; SFT_UID in .env chooses another")


def named(uid: int) -> str:
    """Return a user's number, with the name if this machine has one for it."""
    try:
        return f"{uid} ({pwd.getpwuid(uid).pw_name})"
    except KeyError:
        return str(uid)


def hand_over(settings: Settings, made: Iterable[Path] = ()) -> None:
    """If root calls, give the containers' user what they write to in the folders of the settings.

    `made` are the folders that this call has made. Raises SettingsError for a folder of somebody else that containers
    could not write to.
    """
    if os.geteuid():
        return
    uid, gid = owner()
    give([*made, *own_folders(settings), *caches(settings)], uid, gid)
    problems = []
    for name in ("data_path", "model_path"):
        path = getattr(settings, name)
        if not may_write(path, uid, gid):
            what = f"containers run as user {uid}, who may not write there"
            problems.append(wrong(name.upper(), path, what, f"chown {uid} {path}, or set SFT_UID to its owner"))
    if problems:
        raise SettingsError(problems)


def hand_over_run(run: Run) -> None:
    """If root calls, give the containers' user what root has written in a run directory."""
    if os.geteuid() == 0:
        give(below(run.path), *owner())


def hand_over_env_file(console: Console) -> None:
    """If root calls, give the containers' user root's `.env`: node 0 reads it after `docker compose up` by hand."""
    path = variables.ENV_FILE
    if os.geteuid() == 0 and path.is_file() and path.stat().st_uid == 0:
        uid, gid = owner()
        give([path], uid, gid)
        console.print(f"{path} belongs to user {named(uid)} now: containers run as that user and read it")


def own_folders(settings: Settings) -> Iterator[Path]:
    """Yield the folders of data, models and runs that are inside the project, as by default."""
    for name in FOLDERS:
        path: Path = getattr(settings, name)
        if is_own(path):
            yield path


def is_own(path: Path) -> bool:
    """Tell whether a folder is inside the project, and not just linked there."""
    return ROOT in path.resolve().parents


def caches(settings: Settings) -> Iterator[Path]:
    """Yield everything in the caches that the project has made."""
    for name in ("data_path", "model_path"):
        path: Path = getattr(settings, name)
        for pattern in (*CACHES[name], *(OF_LIBRARIES[name] if is_own(path) else ())):
            for cache in path.glob(pattern):
                yield from below(cache)


def below(path: Path) -> Iterator[Path]:
    """Yield a path and everything below it, without following links."""
    yield path
    if path.is_dir() and not path.is_symlink():
        yield from path.rglob("*")


def give(paths: Iterable[Path], uid: int, gid: int) -> None:
    """Change the owner of paths that belong to root; not of hard links, which may be files from elsewhere."""
    for path in paths:
        try:
            found = path.lstat()
            if found.st_uid == 0 and (found.st_nlink == 1 or stat.S_ISDIR(found.st_mode)):
                os.chown(path, uid, gid, follow_symlinks=False)
        except FileNotFoundError:  # another program has removed it
            continue


def may_write(folder: Path, uid: int, gid: int) -> bool:
    """Tell whether a user may write to a folder itself: a container has it mounted, so parents do not matter."""
    command = ["test", "-w", "."]
    return subprocess.run(command, cwd=folder, user=uid, group=gid, extra_groups=[], check=False).returncode == 0
