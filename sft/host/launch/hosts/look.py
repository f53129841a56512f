"""What a host says of itself, and how it differs from another one."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil

from sft import ROOT, resources
from sft.errors import shown, wrong
from sft.host import gpus, provenance
from sft.host.launch import interface
from sft.host.launch.hosts.messages import Card, Facts
from sft.settings import libraries

CODE = ("sft", "ds_configs")  # what the nodes run
# Variables that change what ranks compute or how they reach each other. Those that name a host's own interfaces differ.
OF_RANKS = re.compile(r"(NCCL|GLOO|TORCH|PYTORCH|TORCHINDUCTOR|CUDA|CUBLAS|DS|OMP|MKL|HF|TRANSFORMERS)_\w+")
OF_A_HOST = re.compile(
    r"\w+_IFNAME|NCCL_HOSTID|NCCL_IB_\w+|NCCL_TOPO\w*|CUDA_VISIBLE_DEVICES|CUDA_(HOME|PATH)\w*|"
    r"\w*(TOKEN|KEY)|HF_HOME|\w+_(CACHE|CACHE_DIR|HOME)"
)
FORWARDED = ("SFT_", "PYTHONPATH", "WANDB_")  # given to all nodes too, besides those
BOOT = Path("/proc/sys/kernel/random/boot_id")
SHOWN = 3  # differing files that are named


def look(towards: list[str]) -> Facts:
    """Return the facts of this host; `towards` are names of a host that is to reach it."""
    start, cards = provenance.here(), gpus.visible()
    return Facts(
        host=socket.gethostname(),
        boot=BOOT.read_text().strip() if BOOT.is_file() else "",
        address=next(filter(None, map(interface.own_address, towards)), ""),
        python=platform.python_version(),
        packages=start.packages or {},
        code=dict(digests()),
        variables={name: value for name, value in os.environ.items() if is_of_ranks(name)},
        cores=resources.cores(),
        memory_gib=psutil.virtual_memory().total / 2**30,
        cards=[Card.of(gpu) for gpu in cards],
        problems=libraries.problems(os.environ) + interface.problems(os.environ, bool(cards)),
    )


def is_of_ranks(name: str) -> bool:
    """Whether a variable has to be the same on all hosts of a run."""
    return bool(OF_RANKS.fullmatch(name)) and not OF_A_HOST.fullmatch(name)


def is_forwarded(name: str) -> bool:
    """Whether a variable of the task's environment is set for all nodes too."""
    return is_of_ranks(name) or name.startswith(FORWARDED)


def digests() -> Iterator[tuple[str, str]]:
    """Yield each file of the code that nodes run, with a digest of its content."""
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield str(path.relative_to(ROOT)), hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def differences(host: str, found: Facts, first: str, facts: Facts) -> list[str]:
    """Return a line for everything in which a host differs from the first one that has to be the same."""
    lines = []
    if (found.host, found.boot) == (facts.host, facts.boot):
        lines.append((f"is the same machine as {first}", "name each machine once; GPUS_PER_NODE says how many GPUs"))
    if changed := names_of(found.code, facts.code):
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        what = f"has other code than {first}: {', '.join(changed[:SHOWN])}{more}"
        lines.append((what, f"bring {ROOT} there to the same state (git pull, rsync), or share the folder"))
    if found.python.rpartition(".")[0] != facts.python.rpartition(".")[0]:
        what = f"has Python {found.python}, {first} has {facts.python}"
        lines.append((what, "make .venv there with the same one (PYTHON=…)"))
    for name in names_of(found.packages, facts.packages):
        what = f"has {name} {found.packages.get(name, 'not')}, {first} has {facts.packages.get(name, 'none')}"
        lines.append(
            (what.replace(" not,", " not installed,"), "`make setup` there installs what constraints.txt says")
        )
    for name in names_of(found.variables, facts.variables):
        if is_forwarded(name) and name in os.environ:
            continue  # all nodes get the task's
        here, there = (one.variables.get(name) for one in (facts, found))
        what = f"has {name}={shown(there)}" if there is not None else f"lacks {name}"
        remedy = "set it alike on all hosts, or nowhere"
        lines.append((f"{what}, {first} has {shown(here) if here is not None else 'it not set'}", remedy))
    return [wrong("HOSTS", host, *line) for line in lines]


def names_of(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Return the names whose values differ, or that only one of them has."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
