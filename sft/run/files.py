"""Files and folders that several processes use: written whole or not at all, read with care, locked.

Something whole is made under a temporary name beside its own, `.NAME.TOKEN.tmp`, flushed to disk, renamed, and then the
name itself is flushed: after a power cut too a name stands for all of its content. What a killed process leaves is
known by that form of name, and `sweep` removes it.

Locks are Linux's open file description locks. Their rules are the same on a local disk as on NFS: a lock needs a file
(never a folder) that is open for writing, and belongs to what `open` returned, not to the process. To look whether a
lock is held takes no lock and needs the file open for reading only. (flock is turned into these locks on NFS, so that
code which breaks its rules works everywhere but there.)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import pwd
import re
import secrets
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from sft.errors import UserError, shown

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
NO_FLUSH = (errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF)
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # file systems without hard links
OWNER = "owner"  # of a temporary folder: its maker holds a lock on this file in it


class Unreadable(UserError):
    """A file of a run that does not hold what it should."""


# Whole or absent


def flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FLUSH or not path.is_dir():  # file systems of networks that flush no folders
            raise
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Flush a folder and everything in it to disk."""
    for where, _, names in os.walk(folder):
        for path in (Path(where, name) for name in names):
            if not path.is_symlink():
                flush(path)
        flush(Path(where))


def temporary_name(path: Path) -> Path:
    """Return a new name beside `path`. Not made from the process id: containers have the same ones."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def write_whole(path: Path, text: str, flushed: bool = True) -> None:
    """Write a file so that it is either the old one or the new one; if it is `flushed`, also after a power cut."""
    temporary = temporary_name(path)
    try:
        # Half a character (a lone surrogate) is written as JSON escapes it.
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            if flushed:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if flushed:
        flush(path.parent)


def write_first(path: Path, text: str) -> None:
    """Write a file that is not there yet, whole. Raises FileExistsError if there is one: the first writer's stays."""
    temporary = temporary_name(path)
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if path.exists():
                raise FileExistsError(path) from None
            temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path, is_whole: Callable[[Path], bool] = lambda folder: False) -> Iterator[Path]:
    """Yield a path to make a folder at; on success it is flushed to disk and renamed to `folder`.

    Its files get the mode that umask gives.

    On an error nothing of it stays. If there is a `folder` by then, made by another process, it stays if `is_whole`
    says so, and is replaced otherwise.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder) as temporary:
        made = temporary / folder.name
        yield made
        give_usual_modes(made)
        flush_tree(made)
        while not renamed(made, folder):
            if is_whole(folder):
                return
            try:
                folder.rename(temporary_name(temporary / folder.name))  # is removed with the temporary folder
            except FileNotFoundError:  # another process has just done so
                continue
        flush(folder.parent)


def give_usual_modes(folder: Path) -> None:
    """Give the files in a folder the mode that new ones have by umask: safetensors makes its own ones 0600."""
    new = folder / ".mode"
    new.touch()
    mode = new.stat().st_mode & 0o777
    new.unlink()
    for path in (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        with contextlib.suppress(PermissionError):  # a mount that has no modes
            path.chmod(mode)


def renamed(made: Path, folder: Path) -> bool:
    """Rename a folder; False if there is one of that name."""
    try:
        made.rename(folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        return False
    return True


@contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    """Yield a new empty folder beside a path, removed at the end. It is locked until then: no sweep takes it."""
    while True:
        temporary = temporary_name(beside)
        temporary.mkdir()
        try:
            owner = lock(temporary / OWNER)
        except FileNotFoundError:  # a sweep came between
            continue
        if owner is None:
            continue
        if (temporary / OWNER).exists():
            break
        owner.close()
    try:
        yield temporary
    finally:
        remove_owned(temporary, owner)


def remove_owned(temporary: Path, owner: TextIO) -> None:
    """Remove a temporary folder whose lock is held; NFS keeps a file that is open, so there it goes in two steps."""
    shutil.rmtree(temporary, ignore_errors=True)
    owner.close()
    shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path, files: bool = False) -> None:
    """Remove the temporary folders in `folder` whose makers are gone.

    With `files` the temporary files too. They bear no lock: only for a folder that nobody else is writing to.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if not TEMPORARY.fullmatch(path.name):
            continue
        try:
            if path.is_symlink() or path.is_file():
                if files:
                    path.unlink()
            elif (owner := lock(path / OWNER)) is not None:
                remove_owned(path, owner)
        except (OSError, UserError):  # gone by now, another user's, or on a file system without locks
            continue


def remove_folder(folder: Path) -> None:
    """Remove a folder so that no half of it keeps its name."""
    temporary = temporary_name(folder)
    folder.rename(temporary)
    shutil.rmtree(temporary)


# JSON


def write_json(path: Path, value: Any, flushed: bool = True) -> None:
    """Write a value as JSON, whole; a number that JSON does not have (NaN, infinite) becomes null."""
    write_whole(path, as_json(value), flushed)


def as_json(value: Any) -> str:
    """Return a value as JSON text; a number that JSON does not have (NaN, infinite) becomes null."""
    return json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """Return a value with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse(text: bytes) -> Any:
    """Return the value of a JSON text. Raises ValueError for anything else."""
    try:
        return json.loads(text.decode("utf-8"), parse_constant=lambda name: None)
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_json(path: Path, kind: type = dict, advice: str = "remove it") -> Any:
    """Return the value in a JSON file. Raises Unreadable if it is not JSON or not of this kind, and OSError."""
    try:
        found = parse(path.read_bytes())
    except ValueError as error:
        raise Unreadable(f"{path}: is not valid JSON ({shown(error)}); {advice}") from None
    if not isinstance(found, kind):
        what = "object" if kind is dict else "list"
        raise Unreadable(f"{path}: does not hold a JSON {what}; {advice}")
    return found


# Locks


def lock(path: Path, wait: bool = False) -> TextIO | None:
    """Return the file in `path`, made if need be, locked until it is closed or this process ends.

    None if another process, or another open file of this one, holds the lock. With `wait` it is waited for. Raises
    OSError if the file cannot be written, and UserError if the file system has no locks.
    """
    try:
        file = path.open("r+")  # "a" alone, which may make it, is refused for another user's file in a shared folder
    except FileNotFoundError:
        file = path.open("a+")
    command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
    try:
        call(file, command, fcntl.F_WRLCK)
    except (BlockingIOError, PermissionError):
        file.close()
        return None
    except OSError as error:
        file.close()
        advice = "use a folder on a file system with locks (NFS: start the server's lock service)"
        raise UserError(f"{path}: cannot be locked ({error.strerror}); {advice}") from None
    return file


def is_locked(path: Path) -> bool:
    """Tell whether a lock is held on a file, by whomever; one that is not there is not locked."""
    try:
        with path.open() as file:
            return call(file, fcntl.F_OFD_GETLK, fcntl.F_WRLCK) != fcntl.F_UNLCK
    except FileNotFoundError:
        return False


def call(file: TextIO, command: int, kind: int) -> int:
    """Call fcntl for a lock of a whole file; return the kind of lock in its answer."""
    form = "hhqqi4x"  # struct flock: type, whence, start, length (0: to the end), process
    answer = fcntl.fcntl(file, command, struct.pack(form, kind, os.SEEK_SET, 0, 0, 0))
    found: int = struct.unpack(form, answer)[0]
    return found


# Whose


def not_yours(path: Path, part: Path | None = None) -> str:
    """Return the line for a path that this user may not use, in whole or in a `part`: whose it is and what to do."""
    path = seen(path)
    owner, me = whose(part or path), user(os.geteuid())
    if owner == me:
        return f"{path}: is {me}'s own, closed for writing or reading; `chmod -R u+rwX {path}` opens it"
    named = f" ({part})" if part and part != path else ""
    return f"{path}: belongs to {owner}{named}, and {me} may not use it; `sudo chown -R {me} {path}` makes it yours"


def remedy(folder: Path, error: OSError) -> str:
    """Return what to do about a folder that cannot be written; with whose it is, if that is why."""
    choose = "choose a folder that you may write to"
    owner, me = whose(folder), user(os.geteuid())
    if not isinstance(error, PermissionError) or owner == me or seen(folder) != folder:
        return choose
    return f"it belongs to {owner}: `sudo chown -R {me} {folder}` makes it yours; or {choose}"


def whose(path: Path) -> str:
    """Return the name of the owner of a path, or of the nearest folder above it that can be seen."""
    return user(seen(path).stat().st_uid)


def seen(path: Path) -> Path:
    """Return a path, or the nearest folder above it that is there and can be seen."""
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            place.stat()
            return place
    return Path(path.anchor or ".")


def user(uid: int) -> str:
    """Return a user's name, or the number if it has none here."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
