"""Cores and main memory that this process may use: the machine's, or less if a container or a job limits them.

A container shows all cores and all memory of its machine. Its limits stand in the files of its control groups, in two
versions: of cgroup v2 in one tree, of cgroup v1 in a tree for each kind of limit. `root` is another root of the file
system, for tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
NO_LIMIT = 2**60  # bytes; cgroup v1 writes nearly 2**63 where there is none


def cores(root: Path = ROOT) -> int:
    """Return the number of cores that this process may use: by its affinity, and by its control groups' CPU time."""
    number = len(os.sched_getaffinity(0))
    for folder in groups("cpu", root):
        old = [text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        words = text(folder / "cpu.max").split() or old
        if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):
            number = min(number, max(1, int(words[0]) // int(words[1])))
    return number


def available_bytes(root: Path = ROOT) -> int:
    """Return the bytes of main memory that this process can still take."""
    return min(memory_limits(root).values(), default=NO_LIMIT)


def memory_limits(root: Path = ROOT) -> dict[str, int]:
    """Return the bytes that are still to be had, by what limits them: the machine, and each control group with a limit.

    Processes that share a limit have the same key for it, in different containers too.
    """
    limits = {}
    for line in text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            machine = text(root / "proc/sys/kernel/random/boot_id")  # the same in all its containers
            limits[f"machine {machine}"] = int(line.split()[1]) * 1024
    for folder in groups("memory", root):
        limit = text(folder / "memory.max") or text(folder / "memory.limit_in_bytes")
        used = text(folder / "memory.current") or text(folder / "memory.usage_in_bytes")
        if limit.isdecimal() and used.isdecimal() and int(limit) < NO_LIMIT:
            place = folder.stat()  # the path is another one inside of a container
            limits[f"group {place.st_dev} {place.st_ino}"] = max(0, int(limit) - int(used) + file_cache(folder))
    return limits


def file_cache(folder: Path) -> int:
    """Return the bytes of a control group that only hold what is on disk too: the kernel frees them if need be."""
    counted = dict(line.split(maxsplit=1) for line in text(folder / "memory.stat").splitlines() if " " in line)
    total = "total_" if "total_inactive_file" in counted else ""  # of v1, which counts the groups below apart
    return sum(int(counted.get(f"{total}{name}_file", 0)) for name in ("inactive", "active"))


def groups(kind: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control group for a kind of limit (cpu, memory), and of those above it."""
    trees = root / "sys/fs/cgroup"
    for line in text(root / "proc/self/cgroup").splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds and kind not in kinds.split(","):
            continue
        tops = [trees / kinds, trees / kind] if kinds else [trees]  # v1: a tree that may serve several kinds
        top = next(filter(Path.is_dir, tops), trees)
        folder = top / path.lstrip("/")
        # A container may see its own group as the top, under a path that is right outside of it alone.
        yield from (place for place in (folder, *folder.parents) if place.is_relative_to(top) and place.is_dir())


def text(path: Path) -> str:
    """Return a small file's text without the space around it; nothing where there is no such file."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
