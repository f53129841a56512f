"""The two services of docker-compose.yml, which are the nodes of a run with `LAUNCHER=compose`.

This module calls `docker compose` as a user would, with the run's name, the user's ids and the secrets in its
environment. Everything else is in the compose files.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console

from sft import ROOT, hostfile
from sft.errors import SettingsError, UserError, wrong
from sft.host import gpus, ownership
from sft.host.bootstrap import checkout
from sft.host.install import torch_build
from sft.host.launch import compose_files, image, refusals, signals
from sft.host.launch.compose_files import BASE, GPU
from sft.host.launch.docker_engine import last_line
from sft.run import files
from sft.run.directory import Run
from sft.run.records import Failure
from sft.settings import variables
from sft.settings.fields import FOLDERS, Settings

claims: list[TextIO] = []  # on the containers, until this process ends


@dataclass(frozen=True)
class Stack:
    """The compose project that a run's settings ask for."""

    settings: Settings

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of `docker compose`. Secrets are passed here, and on no command line."""
        uid, gid = ownership.owner()
        ours = self.names() | {"SFT_UID": str(uid), "SFT_GID": str(gid)}
        ours |= {"SFT_CONTENT": image.content(), "SFT_CHECKOUT": checkout.own(), "TORCH_BACKEND": image.torch_backend()}
        paths = {name.upper(): str(getattr(self.settings, name)) for name in FOLDERS}
        return dict(os.environ) | ours | paths | self.settings.secrets() | more

    def names(self) -> dict[str, str]:
        """Return the variables that keep the containers and the image of this folder apart from a second clone's."""
        return {"COMPOSE_PROJECT_NAME": checkout.project(), "SFT_IMAGE": checkout.image()}

    def command(self, *arguments: str, overlay: str = "") -> list[str]:
        """Return a call of `docker compose` with the files of this stack, or those of the user's COMPOSE_FILE."""
        # compose reads COMPOSE_FILE itself, unless files are named as well.
        files = self.files() if overlay or not variables.of_user("COMPOSE_FILE") else []
        if overlay:
            files = [*files, overlay]
        return ["docker", "compose", *(word for file in files for word in ("-f", file)), *arguments]

    def files(self) -> list[str]:
        """Return the compose files of this stack, or those of the user's COMPOSE_FILE."""
        if own := variables.of_user("COMPOSE_FILE"):
            return own.split(variables.of_user("COMPOSE_PATH_SEPARATOR") or ":")
        return [BASE, GPU] if self.settings.device == "cuda" else [BASE]

    def call(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run `docker compose` in a session of its own: a Ctrl-C in the terminal is meant for the run alone."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )

    def device_ids(self) -> dict[str, list[str]]:
        """Return the GPUs that each service is given. Raises UserError if compose cannot read its files."""
        return compose_files.device_ids(self.config())

    def without_nccl(self) -> str:
        """Return a line if the compose files lack what NCCL needs between the nodes; "" if not. Raises UserError."""
        if self.settings.device != "cuda" or gpus.are_without_peers(card.name for card in gpus.facts()):
            return ""
        return compose_files.without_nccl(self.config())

    def config(self) -> str:
        """Return the compose files as compose combines them, as JSON. Raises UserError if it cannot read them."""
        found = self.call("config", "--format", "json")
        if found.returncode:
            raise UserError(f"docker compose config: {last_line(found.stderr)}; fix {BASE} or .env")
        return found.stdout

    def cards(self) -> list[gpus.Gpu]:
        """Return the GPUs that the compose files give to the nodes, in rank order; none if they are not all here.

        Raises SettingsError if CUDA_VISIBLE_DEVICES names other GPUs: containers do not see that variable.
        """
        everything = gpus.facts()
        by_service = self.device_ids()
        given = [device for name in hostfile.node_names(2) for device in by_service.get(name, [])]
        found = [card for device in given if (card := gpus.named(everything, device))]
        if len(found) < len(given):
            return []  # docker will say what is wrong with them
        visible_devices = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible_devices is not None and {card.uuid for card in gpus.visible()} != {card.uuid for card in found}:
            what = f"the nodes' containers get the GPUs {', '.join(given)}, as {GPU} says"
            remedy = "change device_ids there, unset CUDA_VISIBLE_DEVICES, or set LAUNCHER=local"
            raise SettingsError([wrong("CUDA_VISIBLE_DEVICES", visible_devices, what, remedy)])
        return found

    def check(self) -> None:
        """Raise SettingsError with a line for each disagreement between settings and compose files."""
        if self.settings.nodes != 2:
            remedy = "set NODES=2, or LAUNCHER=local"
            raise SettingsError([wrong("NODES", self.settings.nodes, f"{BASE} has 2 nodes", remedy)])
        problems = compose_files.unread(ROOT, self.files())
        problems += compose_files.problems(self.settings, self.device_ids())
        if problems:
            raise SettingsError(problems)

    def build(self, console: Console) -> None:
        """Build the image if it is missing or was built from other files. Raises UserError."""
        image.check_arguments()
        if image.is_built():
            return
        torch = torch_build.words_for(image.torch_backend())
        console.print(f"building the image {checkout.image()}, with torch for {torch} (minutes, the first time)")
        command = self.command("build", hostfile.MASTER)
        if console.is_terminal:
            built = subprocess.run(command, env=self.environment(), text=True, check=False)
            why = "see its output above"
        else:
            built = self.call("build", hostfile.MASTER, BUILDKIT_PROGRESS="plain")
            why = refusals.of_build(built.stderr or built.stdout)
        if built.returncode:
            remedy = refusals.remedy(why, "fix that, or set LAUNCHER=local")
            raise UserError(f"docker compose build: failed: {why}; {remedy}")

    def complete_env_file(self) -> list[str]:
        """Add to `.env` what makes `docker compose` by hand start the same stack; return the added lines.

        The names that were made for another folder, from which `.env` was copied, are replaced.
        """
        uid, gid = ownership.owner()
        wanted = {"COMPOSE_FILE": f"{BASE}:{GPU}"} if self.settings.device == "cuda" else {}
        if (uid, gid) != (ownership.DEFAULT_UID, ownership.DEFAULT_UID):
            wanted |= {"SFT_UID": str(uid), "SFT_GID": str(gid)}
        if not variables.ENV_FILE.is_file():
            return []  # docker says that it is missing, and the error what makes it
        text = variables.ENV_FILE.read_text(encoding="utf-8")
        lines = []
        for name, value in (self.names() | wanted).items():
            there = variables.of_user(name)
            if checkout.GENERATED.fullmatch(there) and there != value:
                text = re.sub(rf"^[ \t]*{name}=.*\n?", "", text, flags=re.MULTILINE)
            elif there:
                continue
            text += ("" if text.endswith("\n") or not text else "\n") + f"{name}={value}\n"
            lines.append(f"{name}={value}")
        if lines:
            variables.ENV_FILE.write_text(text, encoding="utf-8")
        return lines

    def say_what_env_file_gets(self, console: Console) -> None:
        """Complete `.env`, and print the added lines."""
        for line in self.complete_env_file():
            console.print(f"added to {variables.ENV_FILE}, for `docker compose` by hand: {line}")

    def claim(self) -> None:
        """Take the containers of this project for this process. Raises UserError if they are another one's."""
        if ids := self.call("ps", "-q").stdout.split():
            remedy = "`make stop` or `docker compose stop` ends them"
            raise UserError(f"{len(ids)} containers of this project are already running; {remedy}")
        if claims:
            return  # an earlier run of this process
        try:
            lock = files.lock(ROOT / BASE)
        except PermissionError:  # somebody else's file
            return
        if lock is None:  # its containers do not run yet, and `up` would replace them by ours, or ours by them
            remedy = "wait until it has ended, or end it with Ctrl-C"
            raise UserError(f"another run is about to start the containers of this project; {remedy}")
        claims.append(lock)

    def up(self, run: Run) -> Containers:
        """Start both nodes on a run. Raises UserError if docker refuses."""
        ownership.hand_over_run(run)
        done = self.call("up", "--detach", "--no-build", "--force-recreate", SFT_RUN=run.name)
        if done.returncode:
            self.call("kill")  # a node that did start would wait for the other
            raise refused(done.stderr)
        return Containers(self, run, [self.wait(name) for name in hostfile.node_names(2)])

    def wait(self, service: str) -> subprocess.Popen[str]:
        """Start a process that waits for the end of a service's container and prints its exit code."""
        container = self.call("ps", "--all", "-q", service).stdout.strip()
        with signals.blocked():  # a signal to all processes is meant for the run; this one must outlive it
            return subprocess.Popen(
                ["docker", "wait", container],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )


class Containers:
    """Started nodes that are containers."""

    def __init__(self, stack: Stack, run: Run, waits: list[subprocess.Popen[str]]) -> None:
        self.stack, self.run, self.waits = stack, run, waits
        self.ended: dict[int, int] = {}
        self.unwatched: set[int] = set()

    def codes(self) -> list[int | None]:
        """Return the exit code of each node, None while it runs; -N for one that signal N has ended."""
        for rank, wait in enumerate(self.waits):
            if rank not in self.ended and rank not in self.unwatched and wait.poll() is not None:
                assert wait.stdout is not None
                said = wait.stdout.read().strip()
                if said.isdigit():
                    code = int(said)
                    self.ended[rank] = 128 - code if 128 < code < 160 else code  # docker writes 128 + N for signal N
                else:
                    self.unwatched.add(rank)
        # An update of docker restarts its engine, with which containers may stay at work. Then the run directory tells.
        if self.unwatched and not self.run.is_running():
            self.lose(min(self.unwatched))
        return [self.ended.get(rank) for rank in range(len(self.waits))]

    def lose(self, rank: int) -> None:
        """Note that nodes have ended of which the engine says nothing, as a failure if the run has not ended."""
        if not self.run.ended:
            what = f"node {rank}: docker no longer knows its container"
            reason = f"{what}; the engine was stopped, or somebody removed the container"
            self.run.fail(Failure(kind="lost_node", reason=reason, nodes=[rank]))
        self.ended |= dict.fromkeys(self.unwatched, 0)
        self.unwatched.clear()

    def end_now(self) -> None:
        """End the nodes without saving."""
        self.stack.call("kill", "--signal", "SIGQUIT")


def refused(text: str) -> UserError:
    """Return the error for docker's output when it did not start the containers."""
    remedy = refusals.remedy(text, "see `docker compose up`, or set LAUNCHER=local")
    return UserError(f"docker compose up: {last_line(text)}; {remedy}")
