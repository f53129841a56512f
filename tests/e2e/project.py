"""A copy of the project, as a fresh clone has it, in which tests do what users do: call `inv` and `make`."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import psutil

from sft.run import checkpoints
from sft.run.directory import Run
from sft.settings.fields import Settings

from .. import warm

ROOT = Path(__file__).resolve().parents[2]
PARTS = (
    "Makefile", "tasks.py", "pyproject.toml", "constraints.txt", ".env.example", "sft", "ds_configs",
    "docker-compose.yml", "docker", ".dockerignore",
)  # fmt: skip
RENEWING = ("pyproject.toml", "constraints.txt")  # what make compares an environment with
TIMEOUT_S = 300
FIRST_PORT, PORTS = 20_000, 3_000  # of each of pytest-xdist's processes
DELAYS = Path(__file__).parent / "delays"  # on PYTHONPATH, it reads variables that delay or break ranks
CURVE = ("step", "train/loss", "train/grad_norm", "train/lr", "train/target_tokens")  # what makes two runs the same


class User(TypedDict, total=False):
    """Another user, as subprocess.Popen takes one."""

    user: int
    group: int
    extra_groups: list[int]


class Project:
    """The copy, and what runs in it. Its `mark` is in the environment of every process that it starts."""

    launcher = "local"

    def __init__(self, path: Path, environment: Path | None = Path(sys.prefix)) -> None:
        """Copy the project to `path`. It uses the virtual environment given, or makes its own if there is none."""
        self.path = path
        self.mark = uuid.uuid4().hex
        self.invoke = [f"{environment or path / '.venv'}/bin/inv"]
        self.user: User = {}  # whose processes they are
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
            copy(ROOT / part, path / part)
        if environment:
            (path / ".venv").symlink_to(environment)
            for file in RENEWING:  # as if older than the environment: make would install this copy into it
                os.utime(path / file, (0, 0))

    def environment(self, **settings: object) -> dict[str, str]:
        """Return this process's environment without settings, and with those given."""
        names = {name.upper() for name in Settings.model_fields} | {"MAKE_SETTINGS", "MAKEFLAGS", "MAKELEVEL"}
        settings = {"LAUNCHER": self.launcher} | settings
        kept = {name: value for name, value in os.environ.items() if name not in names}
        given = {name: str(value) for name, value in settings.items()}
        if "PYTHONPATH" in given and "PYTHONPATH" in kept:  # a machine may have its libraries there
            given["PYTHONPATH"] += os.pathsep + kept["PYTHONPATH"]
        ours = {"MASTER_PORT": str(free_port()), "SFT_TEST": self.mark}
        ours["OMP_NUM_THREADS"] = "1"  # other tests run beside
        kept.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes import this copy
        return kept | ours | given | warm.environment(given)

    def start(self, *command: str, **settings: object) -> subprocess.Popen[str]:
        """Start a command of the project's environment with settings in the environment."""
        program = list(command) if command[0] in ("make", "timeout") else [*self.invoke, *command]
        return subprocess.Popen(
            program,
            cwd=self.path,
            env=self.environment(**settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=heed_signals,
            **self.user,
        )

    def inv(self, *command: str, **settings: object) -> subprocess.CompletedProcess[str]:
        """Run a task to its end."""
        process = self.start(*command, **settings)
        output, _ = process.communicate(timeout=TIMEOUT_S)
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def train(self, name: str, **settings: object) -> Run:
        """Train a run of that name to its end, which must be a finished model."""
        done = self.inv("train", **small(RUN_NAME=name, **settings))
        run = Run(self.path / "runs" / name)
        assert done.returncode == 0, done.stdout + "".join(path.read_text() for path in run.log_files())
        assert run.state().status == "finished", done.stdout
        return run

    def processes(self) -> list[psutil.Process]:
        """Return what is left of everything that was started here."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SFT_TEST") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def running(self, *words: str) -> list[psutil.Process]:
        """Return the processes among them whose command lines have all these words."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):  # it has just ended
                if set(words) <= set(process.cmdline()):
                    found.append(process)
        return found

    def wait_for_no_process(self) -> None:
        """Wait until nothing is left; fail where something stays."""
        deadline = time.monotonic() + TIMEOUT_S
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not left, [process.cmdline() for process in left]


def heed_signals() -> None:
    """Have a program take Ctrl-C and the end of its terminal as a user's does.

    It would ignore the one if a script runs these tests in the background, and the other if they run under nohup.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def small(**settings: object) -> dict[str, object]:
    """Return the settings of a run of seconds, with those given in place of the defaults."""
    defaults: dict[str, object] = {
        "MODEL_NAME": "tiny", "DATASET": "demo", "DEVICE": "cpu", "NODES": 2, "GPUS_PER_NODE": 1, "BATCH_SIZE": 4,
        "LEARNING_RATE": 1e-3, "MAX_STEPS": 12, "SAVE_STEPS": 0, "EVALUATE": 0, "MAX_LENGTH": 128,
        "WANDB_MODE": "disabled",
    }  # fmt: skip
    return defaults | settings


def metrics(run: Run, *names: str) -> list[list[float | None]]:
    """Return the named metrics of every step."""
    return [[line.numbers().get(name) for name in names] for line in run.read_metrics()]


def stopped(run: Run, name: str, step: int) -> Run:
    """Return a copy of a finished run as it would be if it had been stopped after the checkpoint of a step."""
    copy = Run(run.path.with_name(name))
    shutil.copytree(run.path, copy.path, symlinks=True)
    shutil.rmtree(copy.final)
    for later in [later for later in checkpoints.steps(copy.checkpoints) if later > step]:
        shutil.rmtree(copy.checkpoints / checkpoints.name_of(later))
    (copy.checkpoints / "latest").write_text(checkpoints.name_of(step) + "\n")
    copy.update_state("stopped", step=step)
    copy.metrics.write_text("".join(line.as_text() for line in run.read_metrics() if line.step <= step))
    return copy


def wait_until(true: Callable[[], bool], process: subprocess.Popen[str], run: Run) -> None:
    """Wait until something is so; fail where the process ends or the time is over before."""
    deadline = time.monotonic() + TIMEOUT_S
    while not true():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, run.state()
        time.sleep(0.05)


def unending(**settings: object) -> dict[str, object]:
    """Return the settings of a run that goes on until it is ended, and leaves the cores to others between its steps."""
    return {"MAX_STEPS": 0, "MAX_EPOCHS": 1000, "PYTHONPATH": DELAYS, "STEP_DELAY_S": 0.1} | settings


class Hold:
    """A step in which a run waits, so that what happens meanwhile happens there, however busy the machine is."""

    def __init__(self, folder: Path, step: int) -> None:
        """`folder`: an empty one."""
        self.folder, self.step = folder, step

    @property
    def settings(self) -> dict[str, object]:
        """Return what has the ranks of a run wait."""
        return {"PYTHONPATH": DELAYS, "HOLD_AT": self.step, "HOLD": self.folder}

    @property
    def held(self) -> bool:
        """Whether the run has come to its step."""
        return self._file("held").exists()

    def wait(self, process: subprocess.Popen[str], run: Run) -> None:
        """Wait until the run has come to its step."""
        wait_until(lambda: self.held, process, run)

    def stop(self, project: Project, process: subprocess.Popen[str], run: Run) -> str:
        """Call `inv stop`, and let the run go on when it has been asked to stop. Return what the task printed."""
        asking = project.start("stop", "--name", run.name)
        wait_until(lambda: run.stop_reason() is not None, process, run)
        self.release()
        said, _ = asking.communicate(timeout=TIMEOUT_S)
        assert asking.returncode == 0, said
        return said

    def release(self) -> None:
        """Let the run go on. It does not wait in this step again, even if it is started again."""
        self._file("go").touch()

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}-{self.step}"


def worker() -> int:
    """Return which of pytest-xdist's processes this is, of which the port ranges tell four apart."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 4


def free_port() -> int:
    """Return a port that is free now, and so is the next one: below those that programs get without asking for one.

    Nobody holds it until a run takes it, so each of pytest-xdist's processes looks in a range of its own.
    """
    first = FIRST_PORT + PORTS * worker()
    while True:
        port = random.SystemRandom().randrange(first, first + PORTS - 1)
        with socket.socket() as probe, socket.socket() as behind, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            behind.bind(("127.0.0.1", port + 1))
            return port
