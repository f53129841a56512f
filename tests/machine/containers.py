"""Bare machines as containers: Debian with make and python3 and nothing else, and a copy of the project in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from sft.host.bootstrap import pip_settings
from sft.host.launch import docker_engine
from tests.e2e.project import PARTS, ROOT

IMAGES = "sft-machine"  # .ci/machines makes them
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
OLDER = ("3.10", "3.9", "3.8")  # Pythons that cannot run the project, the one of Ubuntu 22.04 first
FOLDER = "/home/me/sft"  # of the project in a container


@dataclass
class Machine:
    """A bare machine. `mounts`: folders of this one that it sees, read-only, by their places there."""

    suite: str
    python: str = "python3"
    mounts: dict[str, Path] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    network: bool = False

    def make(self, project: Path, *words: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Run `make` with these words in a copy of the project, as an ordinary user."""
        return self.run(project, "make", *words, f"PYTHON={self.python}", timeout_s=timeout_s)

    def run(self, project: Path, *command: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command in a copy of the project, as an ordinary user. Its container is gone afterwards."""
        name = f"sft-machine-{uuid.uuid4().hex[:12]}"
        words = ["docker", "run", "--rm", "--name", name, "--user", f"{os.getuid()}:{os.getgid()}", "--workdir", FOLDER]
        words += [] if self.network else ["--network", "none"]
        words += ["--volume", f"{project}:{FOLDER}"]
        for place, folder in self.mounts.items():
            words += ["--volume", f"{folder}:{place}:ro"]
        for variable, value in ({"HOME": "/tmp", "LC_ALL": "C.UTF-8"} | self.environment).items():
            words += ["--env", f"{variable}={value}"]
        try:
            return subprocess.run(
                [*words, f"{IMAGES}:{self.suite}", *command],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s, check=False,
            )  # fmt: skip
        finally:
            subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=False)


def copy(folder: Path) -> Path:
    """Copy the project to a folder, without an environment."""
    folder.mkdir(parents=True)
    for part in PARTS:
        copied = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        copied(ROOT / part, folder / part)
    return folder


def why_not() -> str | None:
    """Return why there are no bare machines here, with the remedy."""
    if found := docker_engine.problem():
        return "; ".join(found)
    for suite in ("bullseye", "bookworm", "trixie"):
        if docker_engine.output("docker", "image", "inspect", f"{IMAGES}:{suite}").returncode:
            return f"the image {IMAGES}:{suite} is missing; .ci/machines makes it"
    return None


def older_python() -> Path | None:
    """Return an older Python that is on this machine, with a folder of its own that a container can see."""
    for version in OLDER:
        for found in sorted(Path("/root/.pyenv/versions").glob(f"{version}.*/bin/python{version}")):
            return found
        if (found := Path(shutil.which(f"python{version}") or "/none").resolve()).is_file() and found.parts[1] != "usr":
            return found
    return None


def connected(machine: Machine) -> Machine:
    """Let a machine reach what this one's pip reaches: its network, certificates and folders of packages."""
    pip = pip_settings.settings(os.environ)
    folders = [Path(link.removeprefix("file://")) for link in [*pip.links, *pip.more_indexes] if link[0] in "/f"]
    shown = [folder if "simple" not in folder.parts else folder.parent for folder in folders]
    machine.network = True
    machine.mounts |= {str(folder): folder for folder in shown} | {CERTIFICATES: Path(CERTIFICATES)}
    machine.environment |= {"SSL_CERT_FILE": CERTIFICATES, "PIP_CERT": CERTIFICATES}
    if pip.links:
        machine.environment["PIP_FIND_LINKS"] = " ".join(pip.links)
    return machine


def wheels(folder: Path, *requirements: str) -> Path:
    """Download wheels into a folder."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "-d",
        str(folder),
    ]
    subprocess.run([*command, *requirements], check=True, capture_output=True)
    return folder
