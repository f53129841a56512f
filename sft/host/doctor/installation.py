"""Checks of the installation: `.env`, Python and the packages."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from sft import ROOT
from sft.errors import SettingsError
from sft.host.check import Check
from sft.host.launch import launcher
from sft.settings.fields import Settings
from sft.settings.variables import ENV_FILE

PYPROJECT = ROOT / "pyproject.toml"


def env_file(_: Settings) -> Check:
    """Check that nobody else can read `.env`: it holds keys."""
    if not ENV_FILE.exists():
        return Check(str(ENV_FILE), "warning", "does not exist yet", "`make setup` makes it")
    if ENV_FILE.stat().st_mode & 0o077:
        return Check(str(ENV_FILE), "warning", "others may read it", f"chmod 600 {ENV_FILE}")
    return Check(str(ENV_FILE), "ok", "readable by you alone")


def python(_: Settings) -> Check:
    """Check the version of Python."""
    version = sys.version.split()[0]
    if sys.version_info < (3, 11):  # noqa: UP036 - what is checked here is what runs here
        return Check("Python", "failure", version, "use Python 3.11 or newer: make clean, make setup PYTHON=python3.12")
    return Check("Python", "ok", f"{version} in {sys.prefix}")


def packages(_: Settings) -> Check:
    """Check the installed versions against those that pyproject.toml allows."""
    problems, right = [], []
    for line in tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]:
        requirement = Requirement(line)
        version = version_of(requirement.name)
        if not version:
            problems.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{requirement.name} {version} is not {requirement.specifier}")
        right.append(f"{requirement.name} {version}")
    if problems:
        return Check("packages", "failure", "; ".join(problems), "`make clean setup` installs the pinned ones")
    return Check("packages", "ok", ", ".join(right[:4]) + f" and {len(right) - 4} more as pinned")


def extras(settings: Settings) -> Check:
    """Check for the optional package that LORA_BASE_BITS=4 needs, where the nodes would be."""
    try:
        launcher.would_be(settings).check(settings)
    except SettingsError as error:
        return Check.from_problem("optional packages", str(error))
    return Check("optional packages", "ok", "all that the settings need")


def kernels(_: Settings) -> Check:
    """Check for the optional kernels that make training on GPUs faster."""
    found = {name: version_of(name) for name in ("liger-kernel", "flash-attn")}
    words = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    if not found["liger-kernel"]:
        what = "liger-kernel is not installed: activations take a third more memory"
        return Check("fast kernels", "warning", what, "`make clean setup` installs it where a GPU is visible")
    more = "" if found["flash-attn"] else "; without flash-attn, torch's own attention is used"
    return Check("fast kernels", "ok", words + more)


def version_of(name: str) -> str:
    """Return the version of an installed package, or ""."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def torch_cuda() -> str | None:
    """Return the CUDA version that torch was built for, without importing it (that takes seconds)."""
    found = importlib.util.find_spec("torch")
    if not found or not found.origin:
        return None
    match = re.search(r"^cuda\b.*= '([\d.]+)'", (Path(found.origin).parent / "version.py").read_text(), re.MULTILINE)
    return match[1] if match else None
