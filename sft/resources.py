"""Cores and main memory that this process may use: the machine's, or less if a container or a job limits them.

A container shows all cores and all memory of its machine. Its limits are in the files of its control groups: cgroup v2
has one tree of them, cgroup v1 has a tree for each kind of limit. Tests set `root`, another root of the file system.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
NO_LIMIT = 2**60  # bytes; without a limit cgroup v1 writes nearly 2**63


def cores(root: Path = ROOT) -> int:
    """Return the number of cores that this process may use: its affinity, or less if its CPU time is limited."""
    number = len(os.sched_getaffinity(0))
    for folder in groups("cpu", root):
        old = [text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        words = text(folder / "cpu.max").split() or old
        if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):
            number = min(number, max(1, int(words[0]) // int(words[1])))
    return number


def available_bytes(root: Path = ROOT) -> int:
    """Return the bytes of main memory that this process can still use."""
    return min(memory_limits(root).values(), default=NO_LIMIT)


def memory_limits(root: Path = ROOT) -> dict[str, int]:
    """Return the bytes that are still available by what limits them: the machine, and control groups with a limit.

    Processes that share a limit get the same key for it, even in different containers.
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
            group = folder.stat()  # not the path, which is another one inside a container
            limits[f"group {group.st_dev} {group.st_ino}"] = max(0, int(limit) - int(used) + file_cache(folder))
    return limits


def file_cache(folder: Path) -> int:
    """Return the bytes of a control group that cache files: the kernel frees them when memory is needed."""
    counted = dict(line.split(maxsplit=1) for line in text(folder / "memory.stat").splitlines() if " " in line)
    total = "total_" if "total_inactive_file" in counted else ""  # v1 counts the groups below separately without it
    return sum(int(counted.get(f"{total}{name}_file", 0)) for name in ("inactive", "active"))


def memory_kills(root: Path = ROOT) -> int:
    """Return how many processes of this control group the kernel has killed because memory ran out."""
    group = next(groups("memory", root), None)
    if group is None:
        return 0
    told = text(group / "memory.events") or text(group / "memory.oom_control")
    counted = dict(line.split(maxsplit=1) for line in told.splitlines() if " " in line)
    return int(counted.get("oom_kill", 0))


def groups(kind: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control group for a kind of limit (cpu, memory), and of its parents."""
    trees = root / "sys/fs/cgroup"
    for line in text(root / "proc/self/cgroup").splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds and kind not in kinds.split(","):
            continue
        tops = [trees / kinds, trees / kind] if kinds else [trees]  # v1: a tree may be for several kinds
        top = next(filter(Path.is_dir, tops), trees)
        folder = top / path.lstrip("/")
        # A container may see its own group at the top, though the path is the one outside.
        yield from (group for group in (folder, *folder.parents) if group.is_relative_to(top) and group.is_dir())


def text(path: Path) -> str:
    """Return the stripped text of a small file, or "" if there is no such file."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
