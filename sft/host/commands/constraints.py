"""`make constraints`: write constraints.txt, the version of every package that an installation contains.

uv resolves for a fixed Python and platform, not for this machine's: the file is the same wherever it is made.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib

from packaging.requirements import Requirement
from rich.console import Console

from sft import ROOT
from sft.errors import UserError

PYPROJECT = ROOT / "pyproject.toml"
CONSTRAINTS = ROOT / "constraints.txt"
EXTRAS = ("dev", "gpu", "qlora")
PYTHON = "3.11"  # the oldest that is supported: what runs on it also runs on newer ones, but not the reverse
PLATFORM = "x86_64-manylinux_2_28"
# torch's build depends on the machine, and each CUDA build requires its own versions of the others.
LEFT_OUT = re.compile(r"torch|triton|cuda-.+|nvidia-(?!ml-py$).+")
HEADER = f"""\
# The version of every package that pyproject.toml requires, and of all that they require in turn. Made by
# `make constraints`, for Python {PYTHON} and newer on Linux, with the extras {", ".join(EXTRAS)}.
# Left out: torch, whose build depends on the machine (pyproject.toml has its range); triton, nvidia-* and cuda-*,
# whose versions torch's CUDA builds require themselves; flash-attn, which is compiled for the torch it meets.
"""


def renew(console: Console) -> None:
    """Resolve pyproject.toml's requirements to the newest versions, and write them. Raises UserError.

    They must also suit the oldest torch allowed: a machine or an image may bring it.
    """
    pins = [pin for pin in resolved() if not LEFT_OUT.fullmatch(pin.split("==")[0])]
    text = HEADER + "".join(f"{pin}\n" for pin in pins)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as trial:
        trial.write(f"{text}torch=={oldest_torch()}\n")
        trial.flush()
        resolved("--constraints", trial.name)
    CONSTRAINTS.write_text(text)
    console.print(f"constraints.txt: {len(pins)} packages; the next `make setup` installs these versions")


def oldest_torch() -> str:
    """Return the lower bound in pyproject.toml."""
    requirements = map(Requirement, tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"])
    bounds = next(requirement.specifier for requirement in requirements if requirement.name == "torch")
    return next(bound.version for bound in bounds if bound.operator == ">=")


def resolved(*options: str) -> list[str]:
    """Resolve the requirements; return `name==version` lines, in the order of their names. Raises UserError."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", PYPROJECT.name]
    command += [f"--extra={extra}" for extra in EXTRAS]
    command += [f"--python-version={PYTHON}", f"--python-platform={PLATFORM}", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"constraints.txt: not renewed, uv cannot resolve pyproject.toml:\n{done.stderr.strip()}")
    return done.stdout.splitlines()
