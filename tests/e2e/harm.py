"""Harm that is done to runs for real, by the soak many times and by the tests a few times.

A source of harm is drawn from `rng`, so that the same seed does the same harm; where exactly it strikes is the clock's.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from sft.run.directory import Run

from .project import TIMEOUT_S, Project, metrics, small, wait_until

STEPS = 300  # some twelve pass between a harm and the step that it is noticed in
# One rank on each node: the fewest processes that have every part of a run, W&B's among them.
SETTINGS = {"MAX_STEPS": STEPS, "SAVE_STEPS": 3, "LOGGING_STEPS": 1, "WANDB_MODE": "auto"}
NAMES = ("step", "train/loss", "train/grad_norm", "train/lr")
# What a run's processes are, by a word of their command line.
VICTIMS = {
    "rank": "--local_rank=0",
    "launcher": "sft.host.launch.deepspeed_launcher",
    "node": "sft.host.launch.node",
}
MOMENTS = ("step", "save", "start")
POLL_S = 0.001
PAGE_BYTES = 4096


def undisturbed(project: Project) -> Run:
    """Return a run that nothing happened to."""
    return project.train("unharmed", **SETTINGS)


def equal(run: Run, other: Run) -> None:
    """Fail unless two finished runs have the same metrics, none missing or twice, and the same weights to the bit."""
    assert run.state().status == "finished"
    assert metrics(run, *NAMES) == metrics(other, *NAMES)
    ours, theirs = (path.final / "model.safetensors" for path in (run, other))
    assert ours.read_bytes() == theirs.read_bytes()


class Harmed:
    """A run that is started again after everything that is done to it."""

    def __init__(
        self, project: Project, name: str, rng: random.Random, say: Callable[[str], None], **more: object
    ) -> None:
        self.project, self.rng, self.say = project, rng, say
        self.settings = small(RUN_NAME=name, **SETTINGS, **more)
        self.kills: list[tuple[str, str]] = []  # to come, so that each kind comes once before any comes again
        self.run = Run(Path(str(more.get("RUNS_PATH", project.path / "runs"))) / name)

    def start(self) -> subprocess.Popen[str]:
        """Start or resume it."""
        return self.project.start("train", **self.settings)

    def finish(self, other: Run) -> None:
        """Resume it for the last time, and compare it with an undisturbed run."""
        process = self.start()
        output, _ = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, output
        equal(self.run, other)
        assert not list(self.run.checkpoints.glob(".step-*"))

    def step(self) -> int:
        """Return the last step that it has told of."""
        return int(self.run.state().step)

    def wait_for(self, moment: str, process: subprocess.Popen[str], left: int) -> None:
        """Wait for a moment of harm, of which `left` are still to come: after some steps, in a save, in the start."""
        if moment == "start":
            time.sleep(self.rng.uniform(0, 8))
            return
        share = max(1, (STEPS - self.step()) // (2 * left))
        resumed, wanted = self.step(), self.rng.randint(1, share)

        def is_there() -> bool:
            return self.run.state().status == "training" and self.step() >= resumed + wanted

        wait_until(is_there, process, self.run)
        if moment == "save":
            self.wait_for_save(process)
            time.sleep(self.rng.uniform(0, 0.02))
        else:
            time.sleep(self.rng.uniform(0, 0.1))

    def wait_for_save(self, process: subprocess.Popen[str]) -> None:
        """Wait until a checkpoint is being written."""
        deadline = time.monotonic() + TIMEOUT_S
        while not any(self.run.checkpoints.glob(".step-*")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(POLL_S)

    def kill(self, left: int) -> None:
        """Kill a process of the run, and see that the run ends as failed and leaves nothing behind."""
        if not self.kills:
            self.kills = list(itertools.product(MOMENTS, VICTIMS))
            self.rng.shuffle(self.kills)
        moment, victim = self.kills.pop()
        process = self.start()
        self.wait_for(moment, process, left)
        killed = None
        while killed is None and process.poll() is None:
            found = self.processes(VICTIMS[victim])
            if found:
                killed = self.rng.choice(found)
                with contextlib.suppress(psutil.Error):
                    killed.kill()
            time.sleep(0.05)
        output, _ = process.communicate(timeout=TIMEOUT_S)
        state = self.run.state()
        self.say(f"killed a {victim} ({moment}): {state.status} after step {state.step}: {state.error}")
        assert process.returncode == 1 and state.status == "failed", output
        self.project.wait_for_no_process()

    def processes(self, word: str) -> list[psutil.Process]:
        """Return the run's processes with a word in their command lines."""
        found = []
        for process in self.project.processes():
            with contextlib.suppress(psutil.Error):
                if word in process.cmdline() and str(self.run.name) in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def stop(self, left: int) -> None:
        """Ask the run to stop at a random step, and see that it saves there, ends well and leaves nothing behind."""
        how = self.rng.choice(("SIGTERM", "SIGINT", "SIGTERM to a node", "stop file"))
        process = self.start()
        self.wait_for("step", process, left)
        asked_after = self.step()
        if how == "stop file":
            self.run.request_stop("the soak")
        elif how == "SIGTERM to a node":
            self.rng.choice(self.processes(VICTIMS["node"])).send_signal(signal.SIGTERM)
        else:
            process.send_signal(getattr(signal, how))
        output, _ = process.communicate(timeout=TIMEOUT_S)
        state = self.run.state()
        self.say(f"stopped by {how}: {state.status} after step {state.step}")
        assert process.returncode == 0 and state.status == "stopped", output
        assert state.step >= asked_after
        assert (self.run.checkpoints / "latest").read_text().strip() == f"step-{state.step:06d}"
        self.project.wait_for_no_process()

    def fill_disk(self, left: int) -> None:
        """Leave no byte on the run's file system while a checkpoint is written, and see that the run says so."""
        process = self.start()
        self.wait_for("step", process, left)
        whole = set(self.run.checkpoints.glob("step-*"))
        self.wait_for_save(process)
        time.sleep(self.rng.uniform(0, 0.03))  # the room for it is looked at, its shards are written, or it is whole
        filler = self.run.path.parent / "filler"
        fill(filler, self.rng.randint(0, 400_000))
        output, _ = process.communicate(timeout=TIMEOUT_S)
        filler.unlink()
        state = self.run.state()
        self.say(f"filled the disk: {state.status} after step {state.step}: {state.error}")
        assert process.returncode == 1 and state.status == "failed", output
        assert os.strerror(28) in str(state.error), output
        kept = set(self.run.checkpoints.glob("step-*"))
        assert kept and max(kept) >= max(whole, default=min(kept))
        self.project.wait_for_no_process()


def fill(path: Path, free: int) -> None:
    """Take all room of a file system but `free` bytes, while others take some of it too."""
    size, part = 0, shutil.disk_usage(path.parent).total
    with path.open("wb") as file:
        while part >= PAGE_BYTES:
            part = min(part, shutil.disk_usage(path.parent).free - free)
            try:
                os.posix_fallocate(file.fileno(), size, max(part, 1))
                size += max(part, 1)
            except OSError:  # somebody was faster
                part //= 2


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """Mount a file system of `size` on a folder for a while. Raises PermissionError where that needs root."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        raise PermissionError("mounting a small file system needs root: run as root")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
