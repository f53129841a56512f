"""The image of the nodes' containers: its build of torch, and whether it was built from the present code."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from sft import ROOT
from sft.errors import SettingsError, UserError, wrong
from sft.host.bootstrap import checkout
from sft.host.install import backend, driver
from sft.host.launch import docker_engine
from sft.settings import variables

COPIED = ("docker/Dockerfile", "docker/pins.py", "pyproject.toml", "constraints.txt", "ds_configs", "sft")
ARGUMENTS = ("BASE_IMAGE", "FLASH_ATTN", "QLORA")


@functools.cache
def torch_backend() -> str:
    """Return the build of torch in the image: TORCH_BACKEND, or the one for this machine. Raises UserError."""
    choice = backend.chosen(driver.machine(), variables.of_user("TORCH_BACKEND"))
    if choice.problem:
        raise UserError(choice.problem)
    return choice.name


def check_arguments() -> None:
    """Raise SettingsError for a value that the Dockerfile could only fail with, minutes later."""
    problems = []
    for name in ("FLASH_ATTN", "QLORA"):
        value = variables.of_user(name)
        if value not in ("", "0", "1"):
            problems.append(wrong(name, value, "is not 1 or 0", "use 1 or 0"))
    if variables.of_user("FLASH_ATTN") == "1" and torch_backend() == backend.CPU:
        problems.append(
            wrong("FLASH_ATTN", 1, "flash-attn needs a GPU, and torch is built for the CPU", "set FLASH_ATTN=0")
        )
    if problems:
        raise SettingsError(problems)


def is_built() -> bool:
    """Tell whether the image exists and was built from the present files."""
    label = '{{index .Config.Labels "sft.content"}}'
    built = docker_engine.output("docker", "image", "inspect", "--format", label, checkout.image())
    return built.returncode == 0 and built.stdout.strip() == content()


def content() -> str:
    """Return a hash of everything that the image is made from, except its base. It is the image's label."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    for argument in ARGUMENTS:
        digest.update(f"{argument}={variables.of_user(argument)}".encode())
    digest.update(f"TORCH_BACKEND={torch_backend()}".encode())
    return digest.hexdigest()[:16]


def sources() -> list[Path]:
    """Return the files that go into the image, without compiled ones, in a fixed order."""
    found: list[Path] = []
    for path in (ROOT / copied for copied in COPIED):
        found += sorted(path.rglob("*")) if path.is_dir() else [path]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]
