"""Who owns a file, and the error for a file of another user."""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path


def not_yours(path: Path, part: Path | None = None) -> str:
    """Return a line that says who owns a path, or a `part` of it, that this user may not use, and the remedy."""
    path = seen(path)
    if is_read_only(path):
        return (
            f"{path}: is on a disk that is mounted read-only; mount it for writing, or copy the folder to another one"
        )
    owner, me = whose(part or path), user(os.geteuid())
    if owner == me:
        return f"{path}: is {me}'s own, closed for writing or reading; `chmod -R u+rwX {path}` opens it"
    named = f" ({part})" if part and part != path else ""
    return f"{path}: belongs to {owner}{named}, and {me} may not use it; `sudo chown -R {me} {path}` makes it yours"


def is_read_only(path: Path) -> bool:
    """Whether nobody may write to the file system of a path."""
    return bool(os.statvfs(seen(path)).f_flag & os.ST_RDONLY)


def remedy(folder: Path, error: OSError) -> str:
    """Return what to do about a folder that cannot be written, with its owner if that is the reason."""
    choose = "choose a folder that you may write to"
    owner, me = whose(folder), user(os.geteuid())
    if not isinstance(error, PermissionError) or owner == me or seen(folder) != folder:
        return choose
    return f"it belongs to {owner}: `sudo chown -R {me} {folder}` makes it yours; or {choose}"


def whose(path: Path) -> str:
    """Return the name of the owner of a path, or of the nearest folder above it that exists and can be seen."""
    return user(seen(path).stat().st_uid)


def seen(path: Path) -> Path:
    """Return a path, or the nearest folder above it that exists and can be seen."""
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            place.stat()
            return place
    return Path(path.anchor or ".")


def user(uid: int) -> str:
    """Return a user's name, or the number if the user has no name on this machine."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
