"""`environment.json`: what a run was made of and on, so that it can be repeated, and what differs when it is.

The task that opens a run notes the project and the command; node 0 adds its machine, its packages and, when they are
ready, the inputs. Nothing heavy is imported.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from sft import files
from sft.host import gpus
from sft.machine import cores
from sft.redaction import redact_all
from sft.run import Run

ROOT = Path(__file__).resolve().parents[2]
# The packages whose versions can change what a run computes.
PACKAGES = ("torch", "transformers", "deepspeed", "datasets", "tokenizers", "safetensors", "accelerate", "peft",
            "numpy", "pyarrow", "liger-kernel", "flash-attn", "bitsandbytes", "wandb")  # fmt: skip
ANSWER_TIMEOUT_S = 10
COMPARED = ("commit", "changed_files", "python", "packages", "machine", "inputs")


def note_project(run: Run) -> None:
    """Note the project's commit and the command, before the nodes start: a container has no repository."""
    write(run, opened_at=round(time.time(), 3), command=command(), **project())


def note_node(run: Run) -> None:
    """Note this machine, its packages and the prepared inputs; node 0 does."""
    inputs = files.read_json(run.prepared)["inputs"]
    write(run, **here(), inputs=inputs)


def write(run: Run, **values: Any) -> None:
    """Add values to `environment.json`."""
    files.write_json(run.environment, redact_all(read(run) | values))


def read(run: Run) -> dict[str, Any]:
    """Return the content of `environment.json`, or an empty one where there is none."""
    return run.read(run.environment, {})


def command() -> str:
    """Return what started this process, as a user would type it."""
    words = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    behind_make = " ".join(filter(None, (os.environ.get("MAKE_OPTIONS"), os.environ.get("MAKE_SETTINGS"))))
    return f"{words} (make {behind_make})" if behind_make else words


def project() -> dict[str, Any]:
    """Return the project's commit and the tracked files that differ from it; None where it is no repository."""
    commit = git("rev-parse", "HEAD") if (ROOT / ".git").exists() else None
    changed = git("status", "--porcelain", "--untracked-files=no") if commit else None
    files = None if changed is None else [line[3:] for line in changed.splitlines()]
    return {"commit": commit.strip() if commit else None, "changed_files": files}


def git(*words: str) -> str | None:
    """Return what git says, or None where it cannot."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=ANSWER_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def here() -> dict[str, Any]:
    """Return Python, the packages and the machine that this process runs on."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cards = gpus.visible()
    machine = {
        "system": platform.platform(),
        "cpu": cpu(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [f"{card.name} {card.total_gib:.0f} GiB" for card in cards],
        "driver": cards[0].driver if cards else None,
    }
    return {"python": platform.python_version(), "packages": versions, "machine": machine}


def cpu() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a line for everything that both name and that is not the same."""
    return [
        f"{name} was {then}, is {today}"
        for name, then, today in pairs("", {k: before[k] for k in COMPARED if k in before}, now)
    ]


def pairs(name: str, before: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """Return the names of differing values inside of two, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in before:
            if key in now:
                found += pairs(f"{name}.{key}".lstrip("."), before[key], now[key])
        return found
    return [] if before == now else [(name, before, now)]
