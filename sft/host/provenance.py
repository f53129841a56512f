"""`environment.json`: what a run was made of and where it ran, so that it can be repeated and compared.

The task that opens a run notes the project, the command and the DeepSpeed file. Node 0 adds its machine, its packages
and, when they are ready, the inputs. Each start of the run has a record of its own: the start that the weights come
from is the content itself, starts that continued from a checkpoint are its `later_starts`, and starts that left no
checkpoint are its `earlier_starts`.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil

from sft import ROOT
from sft.errors import SettingsError, shown, wrong
from sft.host import gpus
from sft.resources import cores
from sft.run import typed_json
from sft.run.directory import Run
from sft.run.records import Environment, Machine, Prepared, Start
from sft.settings import deepspeed
from sft.settings.fields import DS_CONFIGS, Settings

# The packages whose versions can change what a run computes.
PACKAGES = ("torch", "transformers", "deepspeed", "datasets", "tokenizers", "safetensors", "accelerate", "peft",
            "numpy", "pyarrow", "liger-kernel", "flash-attn", "bitsandbytes", "wandb")  # fmt: skip
ANSWER_TIMEOUT_S = 10
COMPARED = ("commit", "changed_files", "python", "packages", "machine", "inputs")


def note_project(run: Run, deepspeed_file: dict[str, object]) -> None:
    """Note the project's commit and the command before the nodes start: a container has no repository."""
    commit, changed = project()
    opened_at = round(time.time(), 3)
    start = Start(opened_at=opened_at, command=command(), commit=commit, changed_files=changed)
    note(run, replace(start, deepspeed_file=deepspeed_file))


def note_machine(run: Run) -> None:
    """Note this machine and its packages (node 0)."""
    note(run, here())


def note_inputs(run: Run) -> None:
    """Note the prepared inputs (node 0), before its ranks train. A run without a checkpoint begins with this start."""
    note(run, Start(inputs=typed_json.read(run.prepared, Prepared).inputs))
    noted = read(run)
    if noted.later_starts and not run.is_saved:
        *lost, began = noted.later_starts
        lost = [*noted.earlier_starts, noted.began, *lost]
        write(run, replace(noted, began=began, later_starts=[], earlier_starts=lost))


def note(run: Run, found: Start) -> None:
    """Add what was found to the newest start, or as a new start if the newest one differs."""
    noted = read(run)
    newest = noted.later_starts[-1] if noted.later_starts else noted.began
    before, now = known(newest), known(found)
    if any(before.get(name, value) != value for name, value in now.items()):
        noted = replace(noted, later_starts=[*noted.later_starts, found])
    elif noted.later_starts:
        noted = replace(noted, later_starts=[*noted.later_starts[:-1], Start.from_json(before | now)])
    else:
        noted = replace(noted, began=Start.from_json(before | now))
    write(run, noted)


def known(start: Start) -> dict[str, object]:
    """Return the fields of a start that were noted."""
    return {name: value for name, value in start.to_json().items() if value is not None}


def since_it_began(run: Run) -> list[str]:
    """Return a line for everything, except the inputs, that differs between the newest start and the beginning."""
    noted = read(run)
    return differences(replace(noted.began, inputs=None), noted.later_starts[-1]) if noted.later_starts else []


def write(run: Run, content: Environment) -> None:
    """Write `environment.json`."""
    typed_json.write(run.environment, content)


def read(run: Run) -> Environment:
    """Return the content of `environment.json`, an empty one if it does not exist."""
    return run.record(run.environment, Environment) or Environment()


def command() -> str:
    """Return what started this process, as a user would type it."""
    words = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    behind_make = " ".join(filter(None, (os.environ.get("MAKE_OPTIONS"), os.environ.get("MAKE_SETTINGS"))))
    return f"{words} (make {behind_make})" if behind_make else words


def current() -> Start:
    """Return what a run that is started now would be made of."""
    commit, changed = project()
    return replace(here(), opened_at=round(time.time(), 3), commit=commit, changed_files=changed)


def project() -> tuple[str | None, list[str] | None]:
    """Return the project's commit and the tracked files that differ from it; None if it is not a repository."""
    commit = git("rev-parse", "HEAD") if (ROOT / ".git").exists() else None
    changed = git("status", "--porcelain", "--untracked-files=no") if commit else None
    files = None if changed is None else [line[3:] for line in changed.splitlines()]
    return commit.strip() if commit else None, files


def git(*words: str) -> str | None:
    """Return the output of git, or None if it fails."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=ANSWER_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def here() -> Start:
    """Return Python, the packages and the machine that this process runs on."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cards = gpus.visible()
    machine = Machine(
        system=platform.platform(),
        cpu=cpu(),
        cores=cores(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        gpus=[f"{card.name} {card.total_gib:.0f} GiB" for card in cards],
        driver=cards[0].driver if cards else None,
    )
    return Start(python=platform.python_version(), packages=versions, machine=machine)


def cpu() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def differences(before: Start, now: Start) -> list[str]:
    """Return a line for everything that differs, if both starts have it."""
    return [
        f"{name} was {shown(then)}, is {shown(today)}"
        for name, then, today in pairs("", compared(before), compared(now))
    ]


def compared(start: Start) -> dict[str, object]:
    """Return the noted fields of a start that may change what it computes."""
    found = {name: value for name, value in start.to_json().items() if name in COMPARED}
    of_project = ("commit", "changed_files") if start.opened_at else ()  # None too: there is no repository
    return {name: value for name, value in found.items() if value is not None or name in of_project}


def deepspeed_file(run: Run, settings: Settings) -> tuple[dict[str, object], list[str]]:
    """Return the content of the DeepSpeed file for a run that continues: the one it began with; and lines about it.

    A run without a checkpoint, or without a record of the file, takes the present content. Raises SettingsError if the
    user's own file has changed.
    """
    now, then = deepspeed.read(settings), read(run).began.deepspeed_file
    if then is None or now == then:
        return now, []
    changed = ", ".join(
        f"{name or 'all of it'} was {a}, is {b}" for name, a, b in pairs("", filled(then, now), filled(now, then))
    )
    if not run.is_saved:
        return now, [
            f"DS_CONFIG={settings.ds_config}: {changed}; no checkpoint is left, and the run starts over with it"
        ]
    if settings.ds_config in DS_CONFIGS:
        return then, [f"DS_CONFIG={settings.ds_config}: {changed}; the run continues with what it began with"]
    what, remedy = f"its file is not what the run began with ({changed})", "restore it, or start over with FRESH=1"
    raise SettingsError([wrong("DS_CONFIG", settings.ds_config, what, remedy)])


def filled(values: dict[str, object], other: dict[str, object]) -> dict[str, object]:
    """Return a JSON object with None for every key, at any depth, that only the other one has."""
    found: dict[str, object] = {}
    for key in [*values, *(key for key in other if key not in values)]:
        mine, others = values.get(key), other.get(key)
        found[key] = filled(mine, others) if isinstance(mine, dict) and isinstance(others, dict) else mine
    return found


def pairs(name: str, before: object, now: object) -> list[tuple[str, object, object]]:
    """Return the names of differing values inside two JSON values, with both of them."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in before:
            if key in now:
                found += pairs(f"{name}.{key}".lstrip("."), before[key], now[key])
        return found
    return [] if before == now else [(name, before, now)]
