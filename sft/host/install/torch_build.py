"""torch: the version in pyproject.toml, in the build for this machine.

First from where pip's configuration says, which may know a folder or an index of one's own; then from PyTorch's index,
which uv knows by the build's name; and if that cannot be reached, whatever build pip finds, if it suits the machine.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

from sft import ROOT
from sft.host.bootstrap import uv
from sft.host.bootstrap.stop import stop
from sft.host.install import backend, driver
from sft.host.install.backend import CPU
from sft.host.install.pip import CONSTRAINTS, pip_install

PYPROJECT = ROOT / "pyproject.toml"


def torch_version(pyproject: Path = PYPROJECT) -> str:
    """Return the torch version to install: the upper bound in pyproject.toml."""
    dependencies = tomllib.loads(pyproject.read_text())["project"]["dependencies"]
    bound = next(re.search(r"<=([\d.]+)", item) for item in dependencies if item.startswith("torch"))
    if bound is None:
        stop("pyproject.toml: torch has no upper bound; write torch>=2.11,<=VERSION")
    return bound[1]


def installed(python: Path) -> tuple[str, str | None] | None:
    """Return the version of the torch in an environment and its CUDA version (None: for the CPU); None if it has none.

    A torch that cannot be imported counts as none.
    """
    code = "import torch; print(torch.__version__, torch.version.cuda or '-')"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    words = done.stdout.split()
    return (words[0], None if words[1] == "-" else words[1]) if done.returncode == 0 and len(words) == 2 else None


def install(python: Path, asked: str) -> str:
    """Install torch if it is missing, does not suit this machine, or is not the build asked for. Return the build.

    Exits with one line if no build suits, before anything is downloaded, or if none can be had.
    """
    machine = driver.machine()
    choice = backend.chosen(machine, asked)
    if choice.problem:
        stop(choice.problem)
    if choice.note:
        print(f"  {choice.note}", flush=True)
    there = installed(python)
    if there and not unfit(there[1], choice.name, machine, asked):
        return name_of(there[1])
    if there:
        print(f"  torch {there[0]}: {unfit(there[1], choice.name, machine, asked)}; it is replaced", flush=True)
    version = torch_version()
    print(f"  torch {version} for {words_for(choice.name)}: the largest part", flush=True)
    get(python, version, choice.name, machine)
    return choice.name


def unfit(cuda: str | None, wanted: str, machine: driver.Machine, asked: str) -> str:
    """Return why the installed torch must be replaced, "" if it stays."""
    if asked not in ("", "auto") and name_of(cuda) != wanted:
        return f"is built for {words_for(name_of(cuda))}, and TORCH_BACKEND={asked}"
    return backend.objection(machine, cuda) if wanted != CPU else ""


def get(python: Path, version: str, wanted: str, machine: driver.Machine) -> None:
    """Install a build from the first place that has it. Exits with one line if none has one that suits."""
    if pip_install(python, *CONSTRAINTS, f"torch=={version}+{wanted}", errors=False):
        return
    if with_uv(python, version, wanted):
        return
    if pip_install(python, *CONSTRAINTS, "--force-reinstall", "--no-deps", f"torch=={version}", errors=False):
        got = installed_after(python, version)
        why_not = backend.objection(machine, got) if wanted != CPU else ""
        if not why_not:
            built = words_for(name_of(got))
            print(f"  PyTorch's index cannot be reached: pip has found torch built for {built}", flush=True)
            return
        stop(f"torch=={version}: only a build that does not suit can be had ({why_not}); connect to PyTorch's index")
    stop(
        f"torch=={version}: not installed; check the network, or install torch {version} into .venv yourself "
        "and run this again"
    )


def installed_after(python: Path, version: str) -> str | None:
    """Complete the torch that pip has installed with what it requires; return its CUDA version."""
    pip_install(python, *CONSTRAINTS, f"torch=={version}")
    found = installed(python)
    return found[1] if found else None


def with_uv(python: Path, version: str, wanted: str) -> bool:
    """Install a build from PyTorch's index; tell whether it succeeded. uv shows its own progress."""
    program, _ = uv.program()
    if not program:
        return False
    command = [program, "pip", "install", "--python", str(python), *CONSTRAINTS]
    command += [f"--torch-backend={wanted}", "--reinstall-package=torch", f"torch=={version}"]
    done = subprocess.run(command, cwd=ROOT, env=uv.environment(dict(os.environ)), check=False)
    return done.returncode == 0


def name_of(cuda: str | None) -> str:
    """Return the build of a CUDA version as PyTorch names it."""
    return f"cu{cuda.replace('.', '')}" if cuda else CPU


def words_for(name: str) -> str:
    """Return a build in words."""
    return "the CPU" if name == CPU else f"CUDA {name[2:-1]}.{name[-1]}"
