"""torch: the version in pyproject.toml, in the build for this machine.

First from where pip's configuration says, which may know a folder or an index of one's own; then from PyTorch's index,
which uv knows by the build's name; and if that cannot be reached, whatever build pip finds, if it suits the machine.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from sft import ROOT
from sft.host.bootstrap import bundle, checkout, uv
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


def install(python: Path) -> str:
    """Install torch if it is missing, does not suit this machine, or is not the build asked for. Return the build.

    Exits with one line if no build suits, before anything is downloaded, or if none can be had.
    """
    machine = driver.machine()
    wanted = asked()
    choice = backend.chosen(machine, wanted)
    if choice.problem:
        stop(choice.problem)
    if choice.note:
        print(f"  {choice.note}", flush=True)
    there = installed(python)
    if there and not unfit(there[1], choice.name, machine, wanted):
        return name_of(there[1])
    if there:
        print(f"  torch {there[0]}: {unfit(there[1], choice.name, machine, wanted)}; it is replaced", flush=True)
    version = torch_version()
    print(f"  torch {version} for {words_for(choice.name)}: the largest part", flush=True)
    get(python, version, choice.name)
    return choice.name


def unfit(cuda: str | None, wanted: str, machine: driver.Machine, asked_for: str) -> str:
    """Return why the installed torch must be replaced, "" if it stays."""
    if asked_for not in ("", "auto") and name_of(cuda) != wanted:
        return f"is built for {words_for(name_of(cuda))}, and TORCH_BACKEND={asked_for}"
    return backend.objection(machine, cuda) if wanted != CPU else ""


def get(python: Path, version: str, wanted: str) -> None:
    """Install a build from the first place that has it. Exits with one line if none has."""
    if pip_install(python, *CONSTRAINTS, f"torch=={version}+{wanted}", errors=False):
        return
    if bundle.is_asked_for(os.environ):
        why_not = "the bundle is for another build or another Python"
    elif not (why_not := with_uv(python, version, wanted)):
        return
    # A public index has one build under the plain version. Every build computes on the CPU.
    if wanted in (CPU, backend.public()):
        if not bundle.is_asked_for(os.environ):
            print(f"  PyTorch's index: {why_not}; taking the build that pip finds", flush=True)
        if pip_install(python, *CONSTRAINTS, f"torch=={version}", errors=False):
            found = installed(python)
            if wanted == CPU or (found and name_of(found[1]) == wanted):
                return
            why_not = f"pip found torch {found[0]}" if found else "the torch that pip found cannot be imported"
    stop(
        f"torch=={version}+{wanted}: not installed ({why_not}); check the network, or install it into .venv yourself "
        "and run this again"
    )


def with_uv(python: Path, version: str, wanted: str) -> str:
    """Install a build from PyTorch's index; return why that failed, or "". In a terminal uv shows its own progress."""
    program, why_not = uv.program()
    if not program:
        return why_not
    seen = sys.stderr.isatty()
    command = [program, "pip", "install", "--python", str(python), *CONSTRAINTS, *uv.options(dict(os.environ))]
    command += [f"--torch-backend={wanted}", "--reinstall-package=torch", f"torch=={version}"]
    environment = uv.environment(dict(os.environ))
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stderr=None if seen else subprocess.PIPE, text=True, check=False
    )
    return "" if done.returncode == 0 else "see above" if seen else uv.reason(done.stderr)


def asked() -> str:
    """Return TORCH_BACKEND from the environment or from `.env`."""
    return checkout.variable("TORCH_BACKEND")


def name_of(cuda: str | None) -> str:
    """Return the build of a CUDA version as PyTorch names it."""
    return f"cu{cuda.replace('.', '')}" if cuda else CPU


def words_for(name: str) -> str:
    """Return a build in words."""
    return "the CPU" if name == CPU else f"CUDA {name[2:-1]}.{name[-1]}"


if __name__ == "__main__":
    install(Path(sys.executable))
