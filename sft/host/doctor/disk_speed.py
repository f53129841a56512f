"""The check of how fast RUNS_PATH can be written: a checkpoint is written by all ranks, gigabytes at a time."""

from __future__ import annotations

import os
import tempfile
import time

from sft.host.check import Check
from sft.host.plan import disk
from sft.settings.fields import Settings

PART_BYTES, PARTS = 8 * 2**20, 32
WRITING_S = 2.0  # after which a slow disk is known well enough
SLOW_GB_S = 0.1


def check(settings: Settings) -> Check:
    """Check the speed by writing a file of at most 256 MB there, which is removed."""
    folder = disk.existing(settings.runs_path)
    try:
        speed = write_gb_s(str(folder))
    except OSError as error:
        remedy = "make RUNS_PATH writable, or set another"
        return Check("disk speed", "failure", f"{settings.runs_path}: {error.strerror}", remedy)
    values = {"write_gb_s": speed}
    found = f"{settings.runs_path} is written at {speed:g} GB/s"
    if speed < SLOW_GB_S:
        return Check(
            "disk speed", "warning", found, "set RUNS_PATH to a faster disk, or raise SAVE_STEPS", values=values
        )
    return Check("disk speed", "ok", found, values=values)


def write_gb_s(folder: str) -> float:
    """Return how fast data reaches the disk below a folder. Raises OSError."""
    part = os.urandom(PART_BYTES)  # that no file system can compress
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        started, written = time.perf_counter(), 0
        while written < PARTS * PART_BYTES and time.perf_counter() < started + WRITING_S:
            written += file.write(part)
        os.fsync(file.fileno())
        return round(written / (time.perf_counter() - started) / 1e9, 3)
