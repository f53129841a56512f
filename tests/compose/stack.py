"""The project as an unprivileged user has it who may use docker, and the two containers of its compose stack."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from testcontainers.compose import DockerCompose

from sft.host import ownership
from sft.host.bootstrap import checkout, sound
from sft.run.directory import Run
from tests.e2e.project import DELAYS, Project

UID = 1000
NODES = ("llm-master", "llm-worker")
IMAGE = "sft-test"


class Stack(Project):
    """The copy of the project, and its containers, which have a compose project name of their own."""

    launcher = "compose"

    def __init__(self, as_root: bool = False) -> None:
        # pytest's own folders are closed to the user.
        super().__init__(Path(tempfile.mkdtemp(prefix="sft-compose-")))
        self.name = f"sft-test-{uuid.uuid4().hex[:8]}"
        self.root = as_root
        self.env_file()
        self.path.chmod(0o755)
        self.more: dict[str, str] = {}
        if os.geteuid() == 0 and not as_root:
            self.invoke = [unprivileged_python(), "-m", "invoke"]
            self.more = {"PYTHONPATH": sysconfig.get_path("purelib")}
            self.user = {"user": UID, "group": UID, "extra_groups": [grp.getgrnam("docker").gr_gid]}
            subprocess.run(["chown", "-R", f"{UID}:{UID}", self.path], check=True)

    @property
    def uid(self) -> int:
        """The user whose files a run makes: UID, or who runs the tests."""
        return ownership.owner()[0]

    def environment(self, **settings: object) -> dict[str, str]:
        """Return the environment of a user's shell."""
        ours = {"COMPOSE_PROJECT_NAME": self.name, "SFT_IMAGE": IMAGE, "HOME": str(self.path)}
        given = {name: str(value) for name, value in settings.items()}
        return super().environment(**settings) | ours | self.more | given

    def env_file(self, **settings: object) -> None:
        """Write `.env`."""
        self.write(".env", "".join(f"{name}={value}\n" for name, value in settings.items()))

    def write(self, name: str, text: str) -> None:
        """Write a file as the user would, readable by that user alone."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        for part in (path, path.parent):
            os.chown(part, 0 if self.root else self.uid, -1)

    def delayed(self, step_delay_s: float) -> dict[str, object]:
        """Return the settings that have every step of a run in containers take so many seconds longer."""
        self.write("data/sitecustomize.py", (DELAYS / "sitecustomize.py").read_text())
        return self.overlay(environment={"PYTHONPATH": "/app/data", "STEP_DELAY_S": str(step_delay_s)})

    def overlay(self, **service: object) -> dict[str, object]:
        """Write a compose file with the same lines for both nodes. Return the settings that have it used."""
        path = self.path / "docker" / "mine.yml"
        path.write_text(yaml.safe_dump({"services": dict.fromkeys(NODES, service)}))
        return {"COMPOSE_FILE": f"docker-compose.yml:{path.relative_to(self.path)}"}

    def compose(self, monkeypatch: pytest.MonkeyPatch) -> DockerCompose:
        """Return the stack as testcontainers drives it: by the project's own compose file, without the tasks."""
        for name, value in self.environment().items():
            monkeypatch.setenv(name, value)
        for name in set(os.environ) - set(self.environment()):
            monkeypatch.delenv(name)
        monkeypatch.setenv("SFT_UID", str(self.uid))
        return DockerCompose(self.path, "docker-compose.yml", wait=False, build=False, keep_volumes=True)

    def docker(self, *arguments: str) -> str:
        """Return what a docker command prints."""
        done = subprocess.run(
            ["docker", *arguments], cwd=self.path, env=self.environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def container(self, node: str) -> str:
        """Return the id of a node's container."""
        return self.docker("compose", "ps", "--all", "-q", node).strip()

    def inspect(self, node: str) -> dict[str, Any]:
        """Return what docker knows of a node's container."""
        return json.loads(self.docker("inspect", self.container(node)))[0]

    def exit_codes(self) -> list[int]:
        """Return how the containers ended; fail where one is running."""
        states = [self.inspect(node)["State"] for node in NODES]
        assert [state["Status"] for state in states] == ["exited", "exited"]
        return [state["ExitCode"] for state in states]

    def pid(self, node: str, *words: str) -> int:
        """Return the process of a node whose command line has all the words, as this machine numbers it."""
        lines = self.docker("top", self.container(node), "-eo", "pid,args").splitlines()[1:]
        return next(int(line.split()[0]) for line in lines if all(word in line.split()[1:] for word in words))

    def start_training(self, **settings: object) -> tuple[Run, subprocess.Popen[str]]:
        """Start `inv train` of a run of that RUN_NAME, in containers."""
        return Run(self.path / "runs" / str(settings["RUN_NAME"])), self.start("train", **settings)

    def remove(self) -> None:
        """Remove everything that was made: containers, network, superseded images, folder."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):  # it has just ended
                process.kill()
        self.docker("compose", "down", "--volumes", "--remove-orphans", "--timeout", "0")
        wait_for(self.prune, 30, every_s=1)
        shutil.rmtree(self.path)

    def prune(self) -> bool:
        """Remove superseded images. Return False if docker does not do so, as while somebody else has it do so."""
        try:
            self.docker("image", "prune", "--force", "--filter", f"label=sft.checkout={own_name(self.path)}")
        except AssertionError:
            return False
        return True


def own_name(folder: Path) -> str:
    """Return the name that the code in a folder makes for it."""
    before, sound.ROOT = sound.ROOT, str(folder)
    try:
        return checkout.own()
    finally:
        sound.ROOT = before


def unprivileged_python() -> str:
    """Return an interpreter that the user may run: this one may lie in a folder of root's."""
    own = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for program in (sys.executable, own):
        try:
            subprocess.run([program, "-V"], user=UID, group=UID, extra_groups=[], cwd="/", check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return program
    raise FileNotFoundError(f"{sys.executable} is closed to other users; install {own} or run the tests as a user")


def wait_for(true: Callable[[], bool], seconds: float, every_s: float = 0.1) -> float:
    """Wait until something is so, and return how long that took; fail where the time is over before."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds
        time.sleep(every_s)
    return time.monotonic() - started
