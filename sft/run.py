"""The run directory: the one interface between the tasks, the ranks and every tool that looks on.

Files that are read while they are written (`state.json`, `checkpoints/latest`, manifests) are written beside
themselves and renamed, so a reader sees the old or the new one, never half.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from sft import cluster
from sft.errors import SettingsError, UserError, wrong
from sft.redaction import redact, redact_all

if TYPE_CHECKING:
    from sft.settings import Settings  # takes a quarter of a second, which a look at a run does not need

Status = Literal["launching", "preparing", "training", "saving", "evaluating", "finished", "stopped", "failed"]
ENDED: tuple[Status, ...] = ("finished", "stopped", "failed")


LOOK_S = 0.1  # longer than a monitor holds a lock that it only looks at
RESERVE_BYTES = 64 * 1024  # kept in the run directory, given up so that a full disk can still be reported


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is either the old one or the new one, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # containers have the same process ids
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Run:
    """One run's directory."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def metrics(self) -> Path:
        """`metrics.jsonl`: one JSON object per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def logs(self) -> Path:
        """Folder of `node-R.log`."""
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        """Folder of `step-NNNNNN/` and `latest`."""
        return self.path / "checkpoints"

    @property
    def final(self) -> Path:
        """The tuned model in Hugging Face layout."""
        return self.path / "final"

    @property
    def adapter(self) -> Path:
        """The LoRA adapter in peft's layout; `final` holds it merged."""
        return self.path / "adapter"

    @property
    def settings_file(self) -> Path:
        """The resolved settings, without secrets."""
        return self.path / "settings.json"

    @property
    def ds_config(self) -> Path:
        """What DeepSpeed receives."""
        return self.path / "ds_config.json"

    @property
    def plan(self) -> Path:
        """`plan.json`: memory and time as they were reckoned before the start; absent on a CPU."""
        return self.path / "plan.json"

    @property
    def hostfile(self) -> Path:
        """What the launcher reads."""
        return self.path / "hostfile"

    def node_file(self, rank: int) -> Path:
        """`node-R.json`: what a node is, written by itself."""
        return self.path / f"node-{rank}.json"

    def nodes(self) -> list[dict[str, Any]]:
        """Return what the nodes say of themselves, in rank order."""
        files = sorted(self.path.glob("node-*.json"), key=lambda path: int(path.stem.removeprefix("node-")))
        return [json.loads(path.read_text()) for path in files]

    @property
    def prepared(self) -> Path:
        """`prepared.json`: where the prepared data and the base model lie; written when both are whole."""
        return self.path / "prepared.json"

    @property
    def evaluation(self) -> Path:
        """`evaluation.json`: loss and exact match before and after training."""
        return self.path / "evaluation.json"

    @property
    def environment(self) -> Path:
        """`environment.json`: the project's commit, versions, machine and inputs of the run."""
        return self.path / "environment.json"

    def settings(self) -> Settings:
        """Return the frozen settings."""
        from sft.settings import Settings

        return Settings.thaw(self.settings_file)

    # State

    def state(self) -> dict[str, Any]:
        """Return the content of `state.json`, or an empty one before there is any."""
        try:
            return json.loads((self.path / "state.json").read_text())
        except FileNotFoundError:
            return {}

    def update_state(self, status: Status | None = None, **values: Any) -> None:
        """Change some values of `state.json`. One process at a time writes it: rank 0, or node 0 without ranks."""
        now = time.time()
        state = {"status": "launching", "step": 0, "total_steps": 0, "epoch": 0.0, "error": None}
        state |= {"started_at": now, "attempt_started_at": now, "hours_from": now}
        state |= self.state() | values | {"updated_at": now}
        if status:
            state["status"] = status
        text = json.dumps(redact_all(state), indent=2) + "\n"
        try:
            write_whole(self.path / "state.json", text)
        except OSError as error:
            if error.errno != errno.ENOSPC or status != "failed":
                raise
            self.give_up_reserve()
            write_whole(self.path / "state.json", text)

    @property
    def ended(self) -> bool:
        """Whether the run has ended, in whatever way."""
        return self.state().get("status") in ENDED

    # Stop

    def request_stop(self, reason: str) -> None:
        """Ask the ranks to save and end after the step they are in."""
        write_whole(self.path / "stop", redact(reason) + "\n")

    def stop_reason(self) -> str | None:
        """Return why a stop was requested, or None."""
        try:
            return (self.path / "stop").read_text().strip()
        except FileNotFoundError:
            return None

    def clear_stop(self) -> None:
        """Forget a stop request, before the run resumes."""
        (self.path / "stop").unlink(missing_ok=True)

    def last_checkpoint(self) -> str:
        """Return the name of the newest whole checkpoint, or in words that there is none."""
        whole = sorted(path.name for path in self.checkpoints.glob("step-*") if (path / "manifest.json").is_file())
        return f"checkpoint {whole[-1]}" if whole else "the start"

    # Failure

    def fail(self, reason: str) -> None:
        """Note why the run broke. The first reason stays: what comes later follows from it."""
        path = self.path / "failed"
        for attempt in range(2):
            try:
                with path.open("x", encoding="utf-8") as file:
                    file.write(redact(reason).strip() + "\n")
            except FileExistsError:
                pass
            except OSError as error:
                if error.errno != errno.ENOSPC or attempt:
                    raise
                path.unlink(missing_ok=True)
                self.give_up_reserve()
                continue
            return

    def failure(self) -> str | None:
        """Return why the run broke, or None. An empty text means that the reason is just being written."""
        try:
            return (self.path / "failed").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None

    def keep_reserve(self) -> None:
        """Keep some bytes for the report of a full disk."""
        (self.path / ".reserve").write_bytes(os.urandom(RESERVE_BYTES))

    def give_up_reserve(self) -> None:
        """Free the bytes kept."""
        (self.path / ".reserve").unlink(missing_ok=True)

    # Who runs it

    def lock(self) -> TextIO | None:
        """Return the run's lock, held until it is closed or this process ends; None where another process holds it."""
        file = (self.path / ".lock").open("w")
        if not lock_file(file, LOOK_S):
            file.close()
            return None
        return file

    def is_running(self) -> bool:
        """Tell whether a first node's program is at work on this run."""
        try:
            with (self.path / ".lock").open() as file:  # for reading: it may be another user's run
                return not lock_file(file)
        except FileNotFoundError:
            return False

    def claim(self) -> TextIO:
        """Keep every other program from starting this run, until the file returned is closed or this process ends.

        Beside the lock of the first node's program, which is taken later and may be in a container. Raises UserError
        where another program has it, or a node is at work.
        """
        file = (self.path / ".claim").open("a")
        if not lock_file(file, LOOK_S) or self.is_running():
            file.close()
            raise UserError(f"{self.path}: is running; watch it with `inv monitor`, end it with `make stop`")
        return file

    # Metrics

    def has_metric(self, step: int, name: str) -> bool:
        """Tell whether a value of `name` is logged for `step`."""
        return any(line["step"] == step and name in line for line in self.read_metrics())

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """Yield the logged steps; a line that is still being written is left out."""
        try:
            with self.metrics.open() as file:
                for line in file:
                    if line.endswith("\n"):
                        yield json.loads(line)
        except FileNotFoundError:
            return

    # Logs

    def log_files(self) -> list[Path]:
        """Return the nodes' logs, in node order."""
        return sorted(self.logs.glob("node-*.log"), key=lambda path: int(path.stem.removeprefix("node-")))

    @staticmethod
    def log_tail(path: Path, lines: int = 15) -> list[str]:
        """Return the last lines of a log."""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - lines * 1000))
            return file.read().decode(errors="replace").splitlines()[-lines:]


def lock_file(file: TextIO, patience_s: float = 0) -> bool:
    """Lock a file until it is closed; False where another process still holds it after `patience_s` seconds."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOOK_S / 10)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other program opens a run in `folder`, and keep others waiting. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def create(settings: Settings, hostfile: str) -> Run:
    """Make the run directory with its frozen inputs, and point `runs/latest` to it.

    Raises SettingsError where RUN_NAME is taken or nothing can be written, and leaves no directory behind.
    """
    run = make_directory(settings)
    try:
        run.logs.mkdir()
        run.checkpoints.mkdir()
        frozen = settings.model_copy(update={"run_name": run.name})
        write_whole(run.settings_file, json.dumps(frozen.freeze(), indent=2) + "\n")
        write_whole(run.ds_config, json.dumps(frozen.deepspeed(), indent=2) + "\n")
        write_whole(run.hostfile, hostfile)
        run.keep_reserve()
        run.update_state("launching")
        point_latest(run)
    except BaseException as error:
        shutil.rmtree(run.path, ignore_errors=True)
        if isinstance(error, OSError):
            raise not_writable(settings, error) from None
        raise
    return run


def make_directory(settings: Settings) -> Run:
    """Make a new run's empty directory. Raises SettingsError."""
    base = settings.run_name or default_name(settings)
    number = 1
    while True:
        name = base if number == 1 else f"{base}-{number}"
        run = Run(settings.runs_path / name)
        try:
            run.path.mkdir(parents=True)
            return run
        except FileExistsError:
            number += 1
            if settings.run_name:
                what = f"{run.path} is there already"
                raise SettingsError([wrong("RUN_NAME", name, what, "use another name or remove it")]) from None
        except OSError as error:
            raise not_writable(settings, error) from None


def not_writable(settings: Settings, error: OSError) -> SettingsError:
    """Return what is said where a run directory cannot be made."""
    what = f"no run directory can be made there ({error.strerror})"
    return SettingsError([wrong("RUNS_PATH", settings.runs_path, what, "choose a folder that you may write to")])


def default_name(settings: Settings) -> str:
    """Return a new run's name: date, time and model."""
    model = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(settings.model_name).name)[:60]
    return time.strftime("%Y%m%d-%H%M%S-") + model


def reopen(run: Run, settings: Settings, again: bool = False) -> None:
    """Make a stopped or failed run ready to go on: what asked it to stop is forgotten, new settings are frozen.

    The hostfile and DeepSpeed's configuration stay as they are, unless the ranks are others now. `state.json` counts
    the attempts, and keeps why the earlier ones broke. MAX_HOURS counts from now, unless it is the same start `again`.
    """
    before = run.settings()
    for path in (run.path / "stop", run.path / "failed", run.prepared, *run.path.glob("node-*.json")):
        path.unlink(missing_ok=True)
    for path in run.path.glob(".*.json.*"):
        path.unlink()  # left by a process that was killed while it wrote
    frozen = settings.model_copy(update={"run_name": run.name})
    if (frozen.nodes, frozen.gpus_per_node) != (before.nodes, before.gpus_per_node):
        write_whole(run.hostfile, cluster.hostfile(frozen.nodes, frozen.gpus_per_node))
        write_whole(run.ds_config, json.dumps(frozen.deepspeed(), indent=2) + "\n")
    write_whole(run.settings_file, json.dumps(frozen.freeze(), indent=2) + "\n")
    run.keep_reserve()
    state = run.state()
    attempt, earlier, error = state.get("attempt", 1) + 1, state.get("earlier_errors", []), state.get("error")
    earlier = [*earlier, error] if error else earlier
    now = time.time()
    hours_from = state.get("hours_from", now) if again else now
    values = {"attempt": attempt, "attempt_started_at": now, "earlier_errors": earlier, "hours_from": hours_from}
    run.update_state("launching", error=None, **values)
    point_latest(run)


def asked_for(settings: Settings) -> Run | None:
    """Return RUN_NAME's run or the latest, or None where there is none. Raises UserError where it is at work."""
    run = Run(settings.runs_path / settings.run_name) if settings.run_name else latest(settings.runs_path)
    if run is None or not run.settings_file.is_file():
        return None
    run.claim().close()
    return run


def resumable(settings: Settings) -> tuple[Run | None, list[str]]:
    """Return the run to go on with, RUN_NAME's or the latest where it was stopped or broke, and what kept it from that.

    None where a new run is to be made: FRESH=1, the latest has nothing saved or is finished, or was started with other
    settings; a line for each of those is returned beside it. Raises UserError where the run is still at work, and
    SettingsError where a run asked for by RUN_NAME was started with other settings.
    """
    run = asked_for(settings)
    if run is None:
        return None, []
    status = run.state().get("status")
    saved = run.final.is_dir() or any(run.checkpoints.glob("step-*")) or run.metrics.is_file()
    if settings.fresh or status == "finished" or not (saved or status == "stopped" or settings.run_name):
        return None, []
    differences = settings.differences(run.settings())
    if differences and settings.run_name:
        raise SettingsError(differences)
    if differences:
        return None, [f"not resuming the unfinished run {run.name}, which has other settings:", *differences]
    return run, []


def point_latest(run: Run) -> None:
    """Make `runs/latest` a link to the run."""
    link = run.path.parent / f".latest.{secrets.token_hex(4)}"
    link.symlink_to(run.name)
    link.replace(run.path.parent / "latest")


def latest(runs: Path) -> Run | None:
    """Return the run that `runs/latest` points to."""
    link = runs / "latest"
    return Run(runs / os.readlink(link)) if link.is_symlink() and link.exists() else None


def find(runs: Path, name: str = "") -> Run:
    """Return the named run, or the latest. Raises UserError where there is none."""
    run = Run(runs / name) if name and name != "latest" else latest(runs)
    if run is None or not run.settings_file.is_file():
        raise UserError(f"{runs / (name or 'latest')}: no such run; start one with `make train` or `make demo`")
    return run
