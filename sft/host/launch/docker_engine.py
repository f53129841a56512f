"""The docker engine of this machine: whether it can be used, and what it answers."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping

ENGINE_LEAST, COMPOSE_LEAST = (20, 10), (2, 0)
ANSWER_TIMEOUT_S = 20
USUAL = "unix:///var/run/docker.sock"
OTHER = "`docker context use default` and `unset DOCKER_HOST` choose this machine's"
NO_GPU = "install NVIDIA's Container Toolkit: sudo nvidia-ctk runtime configure --runtime=docker, then restart docker"


def problem() -> tuple[str, str] | None:
    """Return why docker cannot be used here, and the remedy; None if it works."""
    if not shutil.which("docker"):
        return "docker is not installed", "install Docker Engine 20.10 or newer with its compose plugin"
    engine = output("docker", "version", "--format", "{{.Server.Version}}")
    if engine.returncode:
        if "permission denied" in engine.stderr:
            return "you may not use docker", "sudo usermod -aG docker $USER, then log in again"
        if (at := endpoint()) not in ("", USUAL):
            return f"the docker engine does not answer at {at}", f"start it there; {OTHER}"
        return "the docker engine does not answer", "start it: sudo systemctl start docker"
    if (at := endpoint()).startswith("ssh://"):
        what = f"the docker engine is on another machine, {at}, where containers do not see this folder"
        return what, f"call this on that machine; {OTHER}"
    if version(engine.stdout) < ENGINE_LEAST:
        return f"Docker Engine {engine.stdout.strip()} is too old", "install 20.10 or newer"
    compose = output("docker", "compose", "version", "--short")
    if compose.returncode or version(compose.stdout) < COMPOSE_LEAST:
        return "Docker Compose 2 is missing", "install the plugin: sudo apt install docker-compose-plugin"
    return None


def endpoint() -> str:
    """Return where docker looks for its engine, by DOCKER_HOST or its context; "" if it does not say."""
    return output("docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}").stdout.strip()


def versions() -> str:
    """Return the versions of a working engine and its compose, in words."""
    engine = output("docker", "version", "--format", "{{.Server.Version}}").stdout.strip()
    return f"Engine {engine}, Compose {output('docker', 'compose', 'version', '--short').stdout.strip()}"


def version(text: str) -> tuple[int, ...]:
    """Return the first two numbers of a version, to compare."""
    return tuple(map(int, re.findall(r"\d+", text)[:2]))


def output(*command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a read-only command; a timeout counts as failure."""
    try:
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=ANSWER_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {ANSWER_TIMEOUT_S} s")


def last_line(text: str) -> str:
    """Return the last line of a program's output that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
