"""`LAUNCHER=compose`: the nodes of a run are the two services of docker-compose.yml.

The compose file is the truth: this module calls `docker compose` as a user would, with the run's name, the user's ids
and the secrets in its environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from sft import ROOT, hostfile
from sft.errors import SettingsError, UserError, wrong
from sft.host import gpus, ownership
from sft.host.launch import signals
from sft.run.directory import Run
from sft.settings import variables
from sft.settings.fields import DEMO, FOLDERS, TINY, Settings

BASE, GPU, CHECK = "docker-compose.yml", "docker/gpu.yml", "docker/check.yml"
ENGINE_LEAST, COMPOSE_LEAST = (20, 10), (2, 0)
ANSWER_TIMEOUT_S = 20
NO_GPU = "install NVIDIA's Container Toolkit: sudo nvidia-ctk runtime configure --runtime=docker, then restart docker"


# The engine


def problem() -> tuple[str, str] | None:
    """Return what keeps docker from being used here, and the remedy; None where it works."""
    if not shutil.which("docker"):
        return "docker is not installed", "install Docker Engine 20.10 or newer with its compose plugin"
    engine = output("docker", "version", "--format", "{{.Server.Version}}")
    if engine.returncode:
        if "permission denied" in engine.stderr:
            return "you may not use docker", "sudo usermod -aG docker $USER, then log in again"
        return "the docker engine does not answer", "start it: sudo systemctl start docker"
    if version(engine.stdout) < ENGINE_LEAST:
        return f"Docker Engine {engine.stdout.strip()} is too old", "install 20.10 or newer"
    compose = output("docker", "compose", "version", "--short")
    if compose.returncode or version(compose.stdout) < COMPOSE_LEAST:
        return "Docker Compose 2 is missing", "install the plugin: sudo apt install docker-compose-plugin"
    return None


def versions() -> str:
    """Return the versions of engine and compose, where they work."""
    engine = output("docker", "version", "--format", "{{.Server.Version}}").stdout.strip()
    return f"Engine {engine}, Compose {output('docker', 'compose', 'version', '--short').stdout.strip()}"


def version(text: str) -> tuple[int, ...]:
    """Return a version's numbers, to compare."""
    return tuple(map(int, re.findall(r"\d+", text)[:2]))


def output(*command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command that only asks; one that hangs has failed."""
    try:
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=ANSWER_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {ANSWER_TIMEOUT_S} s")


def last_line(text: str) -> str:
    """Return the last line of a program's output that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


# The stack


@dataclass(frozen=True)
class Stack:
    """The compose project that a run's settings ask for."""

    settings: Settings

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of `docker compose`. Secrets travel here and on no command line."""
        uid, gid = ownership.owner()
        ours = {"SFT_UID": str(uid), "SFT_GID": str(gid), "SFT_CONTENT": self.content()}
        paths = {name.upper(): str(getattr(self.settings, name)) for name in FOLDERS}
        return dict(os.environ) | ours | paths | self.settings.secrets() | more

    def command(self, *arguments: str, overlay: str = "") -> list[str]:
        """Return a call of `docker compose` with the files of this stack, or those of the user's COMPOSE_FILE."""
        files = [BASE, GPU] if self.settings.device == "cuda" else [BASE]
        if own := variables.of_user("COMPOSE_FILE"):
            files = own.split(variables.of_user("COMPOSE_PATH_SEPARATOR") or ":") if overlay else []
        if overlay:
            files = [*files, overlay]
        return ["docker", "compose", *(word for file in files for word in ("-f", file)), *arguments]

    def call(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run `docker compose` out of reach of a Ctrl-C in the terminal, which is for the run."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )

    def services(self) -> dict[str, Any]:
        """Return the services of the compose files. Raises UserError where compose cannot read them."""
        asked = self.call("config", "--format", "json")
        if asked.returncode:
            raise UserError(f"docker compose config: {last_line(asked.stderr)}; fix {BASE} or .env")
        services: dict[str, Any] = json.loads(asked.stdout)["services"]
        return services

    def cards(self) -> list[gpus.Gpu]:
        """Return the GPUs that the compose files give to the nodes, in rank order; none if they are not all here.

        Raises SettingsError where CUDA_VISIBLE_DEVICES names others: it means nothing to a container.
        """
        everything = gpus.facts()
        services = self.services()
        given = [device for name in hostfile.node_names(2) for device in device_ids(services.get(name, {}))]
        found = [card for device in given if (card := gpus.named(everything, device))]
        if len(found) < len(given):
            return []  # docker says what is wrong with them
        asked = os.environ.get("CUDA_VISIBLE_DEVICES")
        if asked is not None and {card.uuid for card in gpus.visible()} != {card.uuid for card in found}:
            what = f"the nodes' containers get the GPUs {', '.join(given)}, as {GPU} says"
            remedy = "change device_ids there, unset CUDA_VISIBLE_DEVICES, or set LAUNCHER=local"
            raise SettingsError([wrong("CUDA_VISIBLE_DEVICES", asked, what, remedy)])
        return found

    def check(self) -> None:
        """Raise SettingsError, a line for each, where settings and compose files do not fit together."""
        settings, problems = self.settings, []
        names = hostfile.node_names(2)
        if settings.nodes != 2:
            remedy = "set NODES=2, or LAUNCHER=local"
            raise SettingsError([wrong("NODES", settings.nodes, f"{BASE} has {len(names)} nodes", remedy)])
        services = self.services()
        for name in names:
            if name not in services:
                problems.append(wrong("NODES", 2, f"the compose files have no service {name}", f"restore it in {BASE}"))
            elif settings.device == "cuda":
                problems += device_problems(settings, name, device_ids(services[name]))
        given = [device for name in names if name in services for device in device_ids(services[name])]
        if twice := sorted({device for device in given if given.count(device) > 1}):
            what = f"the GPUs {', '.join(twice)} are given to both {' and '.join(names)}"
            problems.append(wrong("device_ids", ",".join(given), what, f"give each node its own in {GPU}"))
        if problems or (problems := outside(settings)):
            raise SettingsError(problems)

    # The image

    def content(self) -> str:
        """Return a hash of everything that the image is made from, besides its base."""
        digest = hashlib.sha256()
        paths = [ROOT / "docker" / "Dockerfile", ROOT / "pyproject.toml", ROOT / "constraints.txt"]
        paths += sorted(path for name in ("ds_configs", "sft") for path in (ROOT / name).rglob("*.[jp]*"))
        for path in paths:
            if path.suffix != ".pyc":
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
        for name in ("BASE_IMAGE", "FLASH_ATTN", "QLORA"):
            digest.update(f"{name}={variables.of_user(name)}".encode())
        return digest.hexdigest()[:16]

    def image(self) -> str:
        """Return the image's name."""
        return variables.of_user("SFT_IMAGE") or "sft"

    def is_built(self) -> bool:
        """Tell whether the image is there and made from what is here."""
        label = '{{index .Config.Labels "sft.content"}}'
        built = output("docker", "image", "inspect", "--format", label, self.image())
        return built.returncode == 0 and built.stdout.strip() == self.content()

    def build(self, console: Console) -> None:
        """Build the image where it is not there or was made from something else. Raises UserError."""
        if self.is_built():
            return
        console.print(f"building the image {self.image()} (minutes, the first time)")
        command = self.command("build", hostfile.MASTER)
        if console.is_terminal:
            built = subprocess.run(command, env=self.environment(), text=True, check=False)
            why = "see its output above"
        else:
            built = self.call("build", hostfile.MASTER, BUILDKIT_PROGRESS="plain")
            why = last_line(built.stderr or built.stdout)
        if built.returncode:
            raise UserError(f"docker compose build: failed: {why}; fix that, or set LAUNCHER=local")

    def complete_env_file(self) -> list[str]:
        """Add to `.env` what `docker compose` by hand needs to be the same stack; return the lines."""
        uid, gid = ownership.owner()
        wanted = {"COMPOSE_FILE": f"{BASE}:{GPU}"} if self.settings.device == "cuda" else {}
        if (uid, gid) != (ownership.DEFAULT_UID, ownership.DEFAULT_UID):
            wanted |= {"SFT_UID": str(uid), "SFT_GID": str(gid)}
        lines = [f"{name}={value}" for name, value in wanted.items() if not variables.of_user(name)]
        with variables.ENV_FILE.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
        return lines

    # The containers

    def need_idle(self) -> None:
        """Raise UserError where the nodes' containers are at work on something."""
        if ids := self.call("ps", "-q").stdout.split():
            remedy = "`make stop` or `docker compose stop` ends them"
            raise UserError(f"{len(ids)} containers of this project are at work already; {remedy}")

    def up(self, run: Run) -> Containers:
        """Start both nodes on a run. Raises UserError where docker refuses."""
        ownership.hand_over_run(run)
        done = self.call("up", "--detach", "--no-build", "--force-recreate", SFT_RUN=run.name)
        if done.returncode:
            self.call("kill")  # the one that did start would wait for the other
            raise refused(done.stderr)
        return Containers(self, [self.wait(name) for name in hostfile.node_names(2)])

    def wait(self, service: str) -> subprocess.Popen[str]:
        """Start to wait for a service's container."""
        container = self.call("ps", "--all", "-q", service).stdout.strip()
        with signals.held():  # one to every process is for the run: what only looks on must see its end
            return subprocess.Popen(
                ["docker", "wait", container],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )


class Containers:
    """Nodes that are containers."""

    def __init__(self, stack: Stack, waits: list[subprocess.Popen[str]]) -> None:
        """Know them by the processes that wait for their end."""
        self.stack, self.waits = stack, waits
        self.ended: dict[int, int] = {}

    def codes(self) -> list[int | None]:
        """Return the exit codes; docker writes 128 + N for signal N."""
        for rank, wait in enumerate(self.waits):
            if rank not in self.ended and wait.poll() is not None:
                assert wait.stdout is not None
                said = wait.stdout.read().strip()
                code = int(said) if said.isdigit() else 1  # the engine is gone, or somebody removed the container
                self.ended[rank] = 128 - code if 128 < code < 160 else code
        return [self.ended.get(rank) for rank in range(len(self.waits))]

    def end_now(self) -> None:
        """End them without a save."""
        self.stack.call("kill", "--signal", "SIGQUIT")


def refused(text: str) -> UserError:
    """Return the error for what docker said when it did not start the containers."""
    why, remedy = last_line(text), "see `docker compose up`, or set LAUNCHER=local"
    if "could not select device driver" in text:
        remedy = NO_GPU
    elif "bind source path does not exist" in text:
        remedy = "`make setup` makes the folders and .env"
    return UserError(f"docker compose up: {why}; {remedy}")


def device_ids(service: dict[str, Any]) -> list[str]:
    """Return the GPUs that a service is given by number."""
    devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
    return [str(device) for entry in devices for device in entry.get("device_ids", [])]


def device_problems(settings: Settings, name: str, given: list[str]) -> list[str]:
    """Return a line where a node is not given a GPU for each of its ranks."""
    if len(given) == settings.gpus_per_node:
        return []
    what = f"the compose files give {name} " + (f"the device_ids {', '.join(given)}" if given else "no device_ids")
    remedy = f"make GPUS_PER_NODE and the device_ids in {GPU} agree"
    return [wrong("GPUS_PER_NODE", settings.gpus_per_node, what, remedy)]


def outside(settings: Settings) -> list[str]:
    """Return a line for every local file that containers would not see."""
    problems = []
    for name, made_here in (("model_name", TINY), ("dataset", DEMO)):
        value = getattr(settings, name)
        path = Path(value).expanduser()
        if value == made_here or not path.exists():
            continue
        folders = {"data": settings.data_path, "models": settings.model_path}
        seen = not path.is_absolute() and any(
            path.parts[:1] == (folder,) and folders[folder].absolute() == Path(folder).absolute() for folder in folders
        )
        if not seen:
            what = "lies where containers do not see it"
            remedy = f"move it into data/ or models/ and set {name.upper()}=data/NAME, or set LAUNCHER=local"
            problems.append(wrong(name.upper(), value, what, remedy))
    return problems
