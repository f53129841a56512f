"""`make bundle`: a folder with everything that `make setup OFFLINE=1` needs on a machine without a network.

uv resolves for the Python and the build of torch that are asked for, not for this machine: a laptop can make the folder
for a machine with GPUs. What it resolves is downloaded by address and hash, and the folder's manifest has every hash.
"""

from __future__ import annotations

import concurrent.futures
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from rich.console import Console

from sft import ROOT
from sft.errors import UserError, wrong
from sft.host.bootstrap import bundle, index, pip_settings, uv
from sft.host.commands import setup
from sft.host.install import backend, driver, manifest, torch_build
from sft.settings.fields import Settings

DOWNLOADS = 6  # at a time
PLATFORM = "x86_64-manylinux_2_28"
TOOLS = ("pip", "setuptools>=77.0.3,<82", "wheel")  # what makes an environment, and installs this project into it


@dataclass(frozen=True)
class Package:
    """A package of the resolution: the address of its wheel with its hash, "" if it is published as source only."""

    requirement: str
    wheel: str


def write(settings: Settings, python: str, dev: bool, console: Console) -> None:
    """Write the folder. What is in it already and has the right hash is kept. Raises UserError."""
    python = python or f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not re.fullmatch(r"3\.1[1-4]", python):
        raise UserError(wrong("PYTHON_VERSION", python, "is not 3.11 to 3.14", "leave it out, or use 3.12"))
    choice = backend.chosen(driver.machine(), torch_build.asked())
    if choice.problem:
        raise UserError(choice.problem)
    folder = Path(os.environ.get("BUNDLE") or bundle.DEFAULT).absolute()
    wheels = folder / bundle.WHEELS
    try:
        wheels.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot be written ({error.strerror})"
        raise UserError(wrong("BUNDLE", folder, what, "choose another folder")) from None
    console.print(f"{folder}: for Python {python} and torch built for {torch_build.words_for(choice.name)}")
    packages = resolved(python, choice.name, dev)
    console.print(f"  {len(packages)} packages")
    download(packages, wheels)
    with_python = get_python(folder, python)
    if not with_python:
        console.print(f"  Python {python} cannot be downloaded: the other machine needs one of its own, with venv")
    missing = get_model_and_data(settings, folder, console)
    manifest.write(folder, manifest.Manifest(python, choice.name, torch_build.torch_version(), with_python, dev))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9
    console.print(f"{folder}: {size:.1f} GB; copy it beside the project, and there: make setup OFFLINE=1")
    if missing:
        raise UserError("\n".join(["the folder lacks model or data:", *missing]))


# Packages


def resolved(python: str, build: str, dev: bool) -> list[Package]:
    """Return every package with its one wheel. Raises UserError."""
    version = torch_build.torch_version()
    ways = [([], f"torch=={version}+{build}"), ([f"--torch-backend={build}"], f"torch=={version}")]
    if build in (backend.CPU, backend.public()):
        ways.append(([], f"torch=={version}"))
    why_not = ""
    for options, torch in ways:
        lock, why_not = locked(python, [torch, f"uv=={uv.version()}", *TOOLS], options, dev, build)
        if lock:
            return [package for row in lock if (package := package_of(row))]
    raise UserError(f"the packages cannot be resolved: {why_not}; check the network")


def locked(
    python: str, more: list[str], options: list[str], dev: bool, build: str
) -> tuple[list[dict[str, object]], str]:
    """Return the packages of uv's lock file for the project and `more`, or why there is none."""
    program, why_not = uv.program()
    if not program:
        return [], why_not
    with tempfile.TemporaryDirectory() as folder:
        own, lock = Path(folder, "more.in"), Path(folder, "pylock.toml")
        own.write_text("\n".join(more) + "\n")
        command = [program, "pip", "compile", "--quiet", "pyproject.toml", str(own), "-c", "constraints.txt"]
        command += [f"--python-version={python}", f"--python-platform={PLATFORM}", "--format=pylock.toml"]
        command += ["--extra=dev"] * dev + ["--extra=gpu"] * (build != backend.CPU) + ["-o", str(lock), *options]
        environment = uv.environment(dict(os.environ))
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return [], uv.reason(done.stderr)
        return list(tomllib.loads(lock.read_text())["packages"]), ""


def package_of(row: dict[str, object]) -> Package | None:
    """Return a package of the lock file; None for the project itself."""
    if "version" not in row:
        return None
    requirement = f"{row['name']}=={row['version']}"
    for wheel in row.get("wheels", ()):  # type: ignore[attr-defined]
        address = wheel.get("url") or Path(wheel["path"]).absolute().as_uri()
        return Package(requirement, f"{address}#sha256={wheel['hashes']['sha256']}")
    return Package(requirement, "")


def download(packages: list[Package], folder: Path) -> None:
    """Download all wheels; build those of packages that are published as source only. Raises UserError."""
    pip = pip_settings.settings(os.environ)
    for path in unwanted(packages, folder):
        path.unlink()

    def fetch(package: Package) -> None:
        address, _, digest = package.wheel.partition("#sha256=")
        path = folder / index.file_name(address)
        if not (path.is_file() and manifest.digest(path) == digest):
            index.fetch(package.wheel, pip, folder)

    with concurrent.futures.ThreadPoolExecutor(DOWNLOADS) as pool:
        waiting = {pool.submit(fetch, package): package for package in packages if package.wheel}
        for done in concurrent.futures.as_completed(waiting):
            if error := done.exception():
                raise UserError(f"{waiting[done].requirement}: not downloaded: {error}; check the network")
    for package in packages:
        if not package.wheel:
            build(package, folder)


def unwanted(packages: list[Package], folder: Path) -> Iterator[Path]:
    """Yield the wheels of an earlier call that this one does not need."""
    wanted = {index.file_name(package.wheel) for package in packages}
    built = {package.requirement.replace("==", "-") for package in packages if not package.wheel}
    for path in folder.iterdir():
        if path.name not in wanted and not any(path.name.replace("_", "-").startswith(f"{name}-") for name in built):
            yield path


def build(package: Package, folder: Path) -> None:
    """Build the wheel of a package that is published as source only. Raises UserError."""
    name = Requirement(package.requirement).name
    if any(folder.glob(f"{name.replace('-', '_')}-*.whl")):
        return
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), package.requirement]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{package.requirement}: not built: {uv.reason(done.stderr)}")


# Python, model and data


def get_python(folder: Path, version: str) -> bool:
    """Download a Python that runs on any machine into the folder; tell whether it is there."""
    program, _ = uv.program()
    place = folder / bundle.PYTHON
    command = [program, "python", "install", "--quiet", "--no-bin", "--install-dir", str(place), version]
    environment = uv.environment(dict(os.environ)) | {"UV_PYTHON_INSTALL_DIR": str(place)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode == 0 and any(place.glob(f"cpython-{version}*"))


def get_model_and_data(settings: Settings, folder: Path, console: Console) -> list[str]:
    """Prepare model and data in the folder; return why that failed, if it did."""
    given = {"MODEL_PATH": str(folder / bundle.MODELS), "DATA_PATH": str(folder / bundle.DATA)}
    return setup.preparation_problem(settings, console, **given)
