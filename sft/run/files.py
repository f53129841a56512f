"""Files and folders that several processes use: atomic writes, JSON, locks.

A file or folder is made under a temporary name beside its own, `.NAME.TOKEN.tmp`, flushed to disk and renamed; then the
folder that holds the name is flushed. So even after a power cut, whatever has the name is complete. `sweep` recognises
what a killed process has left by the form of its name, and removes it.

Locks are Linux's open file description locks, whose rules are the same on a local disk and on NFS. A lock is on a file
(never a folder) that is open for writing, and it belongs to the open file, not to the process. Asking whether a lock is
held takes no lock, and the file need only be open for reading. (NFS implements flock by these locks: code that breaks
their rules would work everywhere except there.)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from sft.errors import UserError, shown

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
DECODER = json.JSONDecoder(parse_constant=lambda name: None)  # NaN and infinite numbers, which JSON lacks, are None
NO_FLUSH = (errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF)  # errors of network file systems that cannot flush folders
OWNER = "owner"  # in a temporary folder: a file on which its maker holds a lock


class Unreadable(UserError):
    """A file of a run whose content is not what it should be."""


# Complete or absent


def flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FLUSH or not path.is_dir():
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
    """Return an unused name beside `path`. It does not use the process id, which is the same in several containers."""
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")


def write_whole(path: Path, text: str, flushed: bool = True) -> None:
    """Replace a file atomically: readers see the old or the new content. With `flushed`, even after a power cut."""
    write_lines(path, [text], flushed)


def write_lines(path: Path, lines: Iterable[str], flushed: bool = True) -> None:
    """Replace a file as `write_whole` does, by lines that are made one after the other."""
    temporary = temporary_name(path)
    try:
        # A lone surrogate, half a character, is written as the escape that JSON has for it.
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(lines)
            file.flush()
            if flushed:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if flushed:
        flush(path.parent)


def write_first(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a file that is not there yet, whole. Raises FileExistsError if there is one: the first writer's stays.

    `mode`: as far as umask allows it; 0o600 for what only its owner may read, which it is from the first byte on.
    """
    if path.exists():  # on a full disk, too
        raise FileExistsError(path)
    temporary = temporary_name(path)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if path.exists():
                raise FileExistsError(path) from None
            temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path, is_whole: Callable[[Path], bool] = lambda folder: False) -> Iterator[Path]:
    """Yield a temporary path; flush it to disk and rename it to `folder` on success, delete it on an error.

    The files in it get the mode that umask gives. If another process has made `folder` meanwhile, it is kept if
    `is_whole` says that it is complete, and replaced otherwise.
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
    """Give the files in a folder the mode that umask gives new files: safetensors writes its files with mode 0600."""
    new = folder / ".mode"
    new.touch()
    mode = new.stat().st_mode & 0o777
    new.unlink()
    for path in (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        with contextlib.suppress(PermissionError):  # a mount without modes
            path.chmod(mode)


def renamed(made: Path, folder: Path) -> bool:
    """Rename a folder. Return False if the new name is taken."""
    try:
        made.rename(folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        return False
    return True


@contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    """Yield a new empty folder beside a path, and remove it at the end. Its lock keeps `sweep` from removing it."""
    while True:
        temporary = temporary_name(beside)
        temporary.mkdir()
        try:
            owner = lock(temporary / OWNER)
        except FileNotFoundError:  # a sweep has just removed it
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
    """Remove a temporary folder whose lock is held."""
    shutil.rmtree(temporary, ignore_errors=True)
    owner.close()
    # NFS keeps an open file until it is closed. If a maker has locked a new one meanwhile, the folder is its own.
    with contextlib.suppress(OSError):
        temporary.rmdir()


def sweep(folder: Path, files: bool = False) -> None:
    """Remove the temporary folders in `folder` whose makers are gone.

    With `files`, remove temporary files too. They have no lock, so nobody else may be writing to the folder.
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
    """Remove a folder under a temporary name, so that nobody sees half of it under its own name."""
    temporary = temporary_name(folder)
    folder.rename(temporary)
    shutil.rmtree(temporary)


# JSON


def write_json(path: Path, value: object, flushed: bool = True) -> None:
    """Replace a file atomically by a value as JSON. NaN and infinite numbers, which JSON lacks, become null."""
    write_whole(path, as_json(value), flushed)


def as_json(value: object) -> str:
    """Return a value as JSON text. NaN and infinite numbers, which JSON lacks, become null."""
    return json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def finite(value: object) -> object:
    """Return JSON data with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse(text: bytes) -> object:
    """Return the value of a JSON text. Raises ValueError for anything else."""
    try:
        found: object = DECODER.decode(text.decode("utf-8"))
        return found
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_json(path: Path, advice: str = "remove it") -> dict[str, object]:
    """Return the object in a JSON file. Raises Unreadable if it holds anything else, and OSError."""
    found = read_any_json(path, advice)
    if not isinstance(found, dict):
        raise Unreadable(f"{path}: does not hold a JSON object; {advice}")
    return found


def read_any_json(path: Path, advice: str = "remove it") -> object:
    """Return the value in a JSON file. Raises Unreadable if it is not JSON, and OSError."""
    try:
        return parse(path.read_bytes())
    except IsADirectoryError:
        raise Unreadable(f"{path}: is a folder; {advice}") from None
    except ValueError as error:
        raise Unreadable(f"{path}: is not valid JSON ({shown(error)}); {advice}") from None


# Locks


def lock(path: Path, wait: bool = False) -> TextIO | None:
    """Lock the file in `path`, which is created if it is missing, and return it. Closing it releases the lock.

    Returns None if the lock is held already, by another process or by another open file of this one. With `wait`, wait
    for it instead. Raises OSError if the file cannot be written, and UserError if the file system has no locks.
    """
    try:
        file = path.open("r+")  # mode "a", which creates files, is refused for another user's file in a sticky folder
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
    """Tell whether anybody holds a lock on a file. A missing file is not locked."""
    try:
        with path.open() as file:
            return call(file, fcntl.F_OFD_GETLK, fcntl.F_WRLCK) != fcntl.F_UNLCK
    except FileNotFoundError:
        return False


def call(file: TextIO, command: int, kind: int) -> int:
    """Call fcntl for a lock on a whole file. Return the kind of lock in its answer."""
    form = "hhqqi4x"  # struct flock: type, whence, start, length (0: to the end), process
    answer = fcntl.fcntl(file, command, struct.pack(form, kind, os.SEEK_SET, 0, 0, 0))
    found: int = struct.unpack(form, answer)[0]
    return found
