"""`environment.json`: what a run was made of and where it ran, so that it can be repeated and compared.

The task that opens a run notes the project, the command and the DeepSpeed file; node 0 adds its machine, its packages
and, when they are ready, the inputs. Each start has a record of its own, and none changes another's: the one that the
weights began in is the content itself, starts that went on from a checkpoint are its `later_starts`, and those of which
nothing is left its `earlier_starts`. Nothing heavy is imported.
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

from sft import ROOT
from sft.errors import SettingsError, shown, wrong
from sft.host import gpus
from sft.redaction import redact_all
from sft.resources import cores
from sft.run import files
from sft.run.directory import Run
from sft.settings import deepspeed
from sft.settings.fields import DS_CONFIGS, Settings

# The packages whose versions can change what a run computes.
PACKAGES = ("torch", "transformers", "deepspeed", "datasets", "tokenizers", "safetensors", "accelerate", "peft",
            "numpy", "pyarrow", "liger-kernel", "flash-attn", "bitsandbytes", "wandb")  # fmt: skip
ANSWER_TIMEOUT_S = 10
EARLIER, LATER = "earlier_starts", "later_starts"
COMPARED = ("commit", "changed_files", "python", "packages", "machine", "inputs")


def note_project(run: Run, deepspeed_file: dict[str, Any]) -> None:
    """Note the project's commit and the command, before the nodes start: a container has no repository."""
    note(run, opened_at=round(time.time(), 3), command=command(), **project(), deepspeed_file=deepspeed_file)


def note_machine(run: Run) -> None:
    """Note this machine and its packages; node 0 does."""
    note(run, **here())


def note_inputs(run: Run) -> None:
    """Note the prepared inputs; node 0 does, before its ranks train. A run without a checkpoint begins with them."""
    note(run, inputs=files.read_json(run.prepared)["inputs"])
    noted = read(run)
    if noted.get(LATER) and not run.is_saved:
        earlier, later = noted.pop(EARLIER, []), noted.pop(LATER)
        write(run, later[-1] | {EARLIER: [*earlier, noted, *later[:-1]]})


def note(run: Run, **values: Any) -> None:
    """Add values to the newest record, or to a new one if that says something else."""
    noted = read(run)
    newest = noted[LATER][-1] if noted.get(LATER) else noted
    if any(newest.get(name, value) != value for name, value in values.items()):
        noted[LATER] = [*noted.get(LATER, []), values]
    else:
        newest |= values
    write(run, noted)


def since_it_began(run: Run) -> list[str]:
    """Return a line for everything in the newest record that is not as it was when the run began, but its inputs."""
    noted = read(run)
    began = {name: value for name, value in noted.items() if name != "inputs"}
    return differences(began, noted[LATER][-1]) if noted.get(LATER) else []


def write(run: Run, content: dict[str, Any]) -> None:
    """Write `environment.json`."""
    files.write_json(run.environment, redact_all(content))


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
        f"{name} was {shown(then)}, is {shown(today)}"
        for name, then, today in pairs("", {k: before[k] for k in COMPARED if k in before}, now)
    ]


def deepspeed_file(run: Run, settings: Settings) -> tuple[dict[str, Any], list[str]]:
    """Return the content of the DeepSpeed file that a run goes on with, the one it began with, and what is said of it.

    A run without a checkpoint takes the file as it is now, and so does one that has no record of it. Raises
    SettingsError if the user's own file has another content by now.
    """
    now, then = deepspeed.read(settings), read(run).get("deepspeed_file")
    if not isinstance(then, dict) or now == then:
        return now, []
    changed = ", ".join(
        f"{name or 'all of it'} was {a}, is {b}" for name, a, b in pairs("", filled(then, now), filled(now, then))
    )
    if not run.is_saved:
        return now, [
            f"DS_CONFIG={settings.ds_config}: {changed}; no checkpoint is left, and the run starts over with it"
        ]
    if settings.ds_config in DS_CONFIGS:
        return then, [f"DS_CONFIG={settings.ds_config}: {changed}; the run goes on with what it began with"]
    what, remedy = f"its file is not what the run began with ({changed})", "restore it, or start over with FRESH=1"
    raise SettingsError([wrong("DS_CONFIG", settings.ds_config, what, remedy)])


def filled(values: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object with `None` for what only the other one has, at every depth."""
    found: dict[str, Any] = {}
    for key in [*values, *(key for key in other if key not in values)]:
        mine, others = values.get(key), other.get(key)
        found[key] = filled(mine, others) if isinstance(mine, dict) and isinstance(others, dict) else mine
    return found


def pairs(name: str, before: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """Return the names of differing values inside of two, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in before:
            if key in now:
                found += pairs(f"{name}.{key}".lstrip("."), before[key], now[key])
        return found
    return [] if before == now else [(name, before, now)]
