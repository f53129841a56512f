"""The run directory: the one interface between the tasks, the ranks and every tool that reads a run.

Files that are read while they are written (`state.json`, `checkpoints/latest`, manifests) are written beside themselves
and renamed (sft/run/files.py), so a reader sees the old or the new one, never half. A file that a broken disk or a
person has made unreadable is treated as missing, and `Run.unreadable` names it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, Unpack

from sft.errors import UserError, shown
from sft.failures import is_disk_full
from sft.redaction import redact
from sft.run import checkpoints, files, metrics, owners, records, typed_json
from sft.run.files import write_whole
from sft.run.metrics import Line
from sft.run.paths import RunPaths
from sft.run.records import ENDED, Evaluation, Failure, NodeInfo, RankEnd, RankExit, State, StateChanges, Status
from sft.run.typed_json import R, Record
from sft.settings import variables

if TYPE_CHECKING:
    from sft.settings.deepspeed import DsConfig
    from sft.settings.stages import Decided  # takes a quarter of a second, which a look at a run does not need

OLD_FAILURE = "failed"  # an earlier version wrote the reason here as text
EVALUATION = "evaluation"  # the directory inside a run's in which it is evaluated again
LAST_ATTEMPT_S = 30  # what an attempt that has ended may take to go away: containers are removed, a report is printed
POLL_S = 0.1
# Kept in the run directory, given up so that a full disk can still be reported, with what all ranks then write to logs.
RESERVE_BYTES = 512 * 1024


class Run(RunPaths):
    """One run's directory."""

    @property
    def name(self) -> str:
        """The run's name, which is its path in RUNS_PATH."""
        return f"{self.evaluated.name}/{self.path.name}" if self.evaluated else self.path.name

    @property
    def evaluated(self) -> Run | None:
        """The run that is evaluated again in this directory, if it is `runs/NAME/evaluation`; otherwise None."""
        outer = Run(self.path.parent)
        return outer if self.path.name == EVALUATION and outer.settings_file.is_file() else None

    def nodes(self) -> list[NodeInfo]:
        """Return what the nodes say of themselves, in rank order."""
        found = []
        for path in in_node_order(self.path.glob("node-*.json")):
            with contextlib.suppress(FileNotFoundError, files.Unreadable):
                found.append(typed_json.read_unchanged(path, NodeInfo))
        return found

    def results(self) -> Evaluation:
        """Return what the evaluations have found so far."""
        return self.record(self.evaluation, Evaluation) or Evaluation()

    def settings(self) -> Decided:
        """Return the frozen settings. Raises UserError if they cannot be read."""
        from sft.settings.load import thaw

        advice = "start a new run, with FRESH=1 if it has the same RUN_NAME"
        try:
            return thaw(typed_json.read(self.settings_file, records.FrozenSettings, advice).values)
        except (OSError, ValueError) as error:
            what = f"holds no settings that this version reads ({shown(error)})"
            raise UserError(f"{self.settings_file}: {what}; {advice}") from None

    def freeze(self, settings: Decided) -> None:
        """Write `settings.json`. Raises OSError."""
        typed_json.write(self.settings_file, records.FrozenSettings.of(settings.freeze()))

    def identity(self) -> str:
        """Return what tells this run from any other, whatever it is called; "" if nothing was written down."""
        try:
            return self.identity_file.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    def deepspeed_config(self) -> DsConfig:
        """Return the configuration that DeepSpeed receives. Raises files.Unreadable, and OSError."""
        from sft.settings.deepspeed import DsConfig

        advice = "start a new run with FRESH=1"
        config = DsConfig(files.read_json(self.ds_config, advice=advice))
        if config.stage not in (1, 2, 3):
            raise files.Unreadable(f"{self.ds_config}: has no zero_optimization.stage; {advice}")
        return config

    # Records that may be damaged

    def record(self, path: Path, kind: type[R]) -> R | None:
        """Return one of the run's records; None if it is not there or cannot be read, which `unreadable` names."""
        try:
            return typed_json.read(path, kind)
        except (FileNotFoundError, files.Unreadable):
            return None

    def record_files(self) -> dict[Path, type[Record]]:
        """Return the files in the run directory that hold records, there or not."""
        alone: dict[Path, type[Record]] = {
            self.state_file: State,
            self.prepared: records.Prepared,
            self.environment: records.Environment,
            self.plan: records.PlanSummary,
            self.capabilities: records.Capabilities,
            self.budget: records.Budget,
            self.evaluation: Evaluation,
            self.failure_file: Failure,
            self.job: records.Job,
        }
        return alone | dict.fromkeys(in_node_order(self.path.glob("node-*.json")), NodeInfo)

    def unreadable(self) -> list[str]:
        """Return a line for every file of the run that cannot be read, and for unreadable lines of the metrics."""
        problems = self.unreadable_files()
        number, bad = 0, []
        for number, line in enumerate(self.metrics_lines(), 1):
            if line is None:
                bad.append(number)
        return [*problems, metrics.left_out(self.metrics, bad, number)] if bad else problems

    def unreadable_files(self) -> list[str]:
        """Return a line for every record of the run that cannot be read."""
        return list(self.unreadable_paths().values())

    def unreadable_paths(self) -> dict[Path, str]:
        """Return the files of the run that do not hold the record that they should, with a line for each."""
        problems = {}
        for path, kind in sorted(self.record_files().items()):
            try:
                (typed_json.read_unchanged if kind is NodeInfo else typed_json.read)(path, kind, "it is left out")
            except files.Unreadable as error:
                problems[path] = str(error)
            except FileNotFoundError:
                continue
        return problems

    # State

    def state(self) -> State:
        """Return what the run is doing; an empty state if `state.json` is not there or cannot be read."""
        return self.record(self.state_file, State) or State()

    def update_state(self, status: Status | None = None, **changes: Unpack[StateChanges]) -> None:
        """Change some fields of `state.json`. Raises OSError.

        One process at a time writes it: rank 0, or node 0 without ranks. How an attempt begins and ends is flushed to
        disk. What is written twice a second while it is at work is not: beside a checkpoint that would take a second.
        """
        now, before = time.time(), self.state()
        state = replace(
            before,
            status=status or before.status,
            started_at=before.started_at or now,
            attempt_started_at=before.attempt_started_at or now,
            hours_from=before.hours_from or now,
            updated_at=now,
        )
        state = replace(state, **changes)
        flushed = status in ("queued", "launching", *ENDED)

        def write() -> None:
            typed_json.write(self.state_file, state, flushed)

        if status == "failed":
            self.despite_full_disk(write)
        else:
            write()

    def tell(self, status: Status | None = None, **changes: Unpack[StateChanges]) -> None:
        """Change fields of `state.json` that only viewers need: if that fails, print a line and continue."""
        try:
            self.update_state(status, **changes)
        except OSError as error:
            say_once(f"{self.state_file}: could not be written ({error.strerror}); continuing without")

    def warn(self, line: str) -> None:
        """Have a line printed at the terminal where the run was started (rank 0, or node 0 without ranks)."""
        self.tell(warnings=[*self.state().warnings, line])

    @property
    def ended(self) -> bool:
        """Whether the run has ended, in whatever way."""
        return self.state().status in ENDED

    # Stop

    def request_stop(self, reason: str) -> None:
        """Ask the ranks to save and end after the step they are in."""
        self.despite_full_disk(lambda: write_whole(self.path / "stop", redact(reason) + "\n"))

    def stop_reason(self) -> str | None:
        """Return why a stop was requested, or None."""
        try:
            return (self.path / "stop").read_text(encoding="utf-8", errors="replace").strip()
        except PermissionError:  # another user made the file
            return "a request that this user may not read"
        except OSError:  # no request, or a disk error: it is read again after the next step
            return None

    # Where it resumes

    def saved_step(self) -> int | None:
        """Return the step of the newest whole checkpoint, or None if there is none."""
        return checkpoints.newest_whole(self.checkpoints, self.identity())

    def last_checkpoint(self) -> str:
        """Return the name of the newest whole checkpoint, or "the start" if there is none."""
        step = self.saved_step()
        return "the start" if step is None else f"checkpoint {checkpoints.name_of(step)}"

    @property
    def is_saved(self) -> bool:
        """Whether a whole checkpoint or the final model is there."""
        return self.final.is_dir() or self.saved_step() is not None

    @property
    def has_trained(self) -> bool:
        """Whether it ever trained a step, saved or not."""
        # The evaluation before training is logged too, for step 0.
        logged = any(line is None or line.step > 0 for line in self.metrics_lines())
        return self.is_saved or logged or bool(self.state().step) or bool(checkpoints.steps(self.checkpoints))

    def command(self, task: str) -> str:
        """Return what a user types to call a task on this run, such as `make resume NAME=x`.

        It includes RUNS_PATH if that was given behind `make` or in the environment only.
        """
        if self.evaluated:
            return self.evaluated.command(task)
        try:
            usual = variables.expanded(variables.from_file().get("RUNS_PATH") or "runs")
        except UserError:
            usual = Path("runs")
        elsewhere = usual.absolute() != self.path.parent.absolute()
        return f"make {task} NAME={self.name}" + f" RUNS_PATH={shlex.quote(str(self.path.parent))}" * elsewhere

    # Failure

    def fail(self, failure: Failure) -> None:
        """Record why the run broke. The first reason is kept: later ones are its consequences."""
        try:
            self.despite_full_disk(lambda: typed_json.write_first(self.failure_file, failure))
        except FileExistsError:
            return
        except FileNotFoundError:
            say_once(self.gone())

    def failure(self) -> Failure | None:
        """Return why the run broke, or None."""
        try:
            return typed_json.read(self.failure_file, Failure)
        except FileNotFoundError:
            return self.failure_of_old()
        except files.Unreadable as error:
            return Failure(kind="crash", reason=str(error))

    def failure_of_old(self) -> Failure | None:
        """Return the failure that an earlier version of the project recorded: a text, without a kind."""
        try:
            text = (self.path / OLD_FAILURE).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        return Failure(kind="crash", reason=text.strip())

    def end_as_failed(self, failure: Failure) -> None:
        """Record the end of a run that broke. `failure` is its reason unless there is an earlier one."""
        self.fail(failure)
        self.update_state("failed", error=(self.failure() or failure).reason)

    def note_end(self, rank: int, end: RankEnd) -> None:
        """Record how a rank ended. Raises OSError."""
        self.despite_full_disk(lambda: typed_json.write(self.rank_file(rank), end, flushed=False))

    def rank_end(self, rank: int) -> RankEnd | None:
        """Return how a rank ended, or None if it has not recorded that yet."""
        return self.record(self.rank_file(rank), RankEnd)

    def rank_exit(self, rank: int) -> RankExit | None:
        """Return how a rank's process ended, or None if the launcher has not recorded that yet."""
        return self.record(self.exit_file(rank), RankExit)

    def despite_full_disk(self, write: Callable[[], None]) -> None:
        """Call `write`; if the disk is full, give up the reserve and call it once more. Raises OSError of this run."""
        try:
            write()
        except OSError as error:
            if not is_disk_full(error):
                raise
            self.give_up_reserve()
            try:
                write()
            except OSError as still:  # a write that finds no room does not say of which file
                still.filename = still.filename or str(self.path)
                raise

    def keep_reserve(self) -> None:
        """Keep some bytes for the report of a full disk."""
        (self.path / ".reserve").write_bytes(os.urandom(RESERVE_BYTES))

    def give_up_reserve(self) -> None:
        """Free the bytes kept."""
        (self.path / ".reserve").unlink(missing_ok=True)

    # Who runs it

    def lock(self) -> TextIO | None:
        """Return the run's lock, held until it is closed or this process ends; None if another process holds it."""
        return files.lock(self.path / ".lock")

    def is_running(self) -> bool:
        """Tell whether a first node's program is at work on this run, or evaluates it again."""
        return any(files.is_locked(path / ".lock") for path in (self.path, self.path / EVALUATION))

    def is_held(self) -> bool:
        """Tell whether a node is at work on this run, or what starts nodes: before them and between attempts."""
        return self.is_running() or files.is_locked(self.path / ".claim")

    def can_be_stopped(self) -> bool:
        """Tell whether a node is at work on this run, or is going to be without another command."""
        return self.is_running() or (self.is_held() and not self.ended)

    def at_work(self) -> Run:
        """Return the directory in which something is at work: that of the run's evaluation while there is one."""
        again = Run(self.path / EVALUATION)
        return again if files.is_locked(again.path / ".lock") else self

    def claim(self) -> TextIO:
        """Keep every other program from starting this run, until the file returned is closed or this process ends.

        This is not the lock of the first node's program, which is taken later and may be in a container. Raises
        UserError as `wait_until_free` does.
        """
        self.wait_until_free()
        try:
            file = files.lock(self.path / ".claim")
        except FileNotFoundError:
            raise UserError(f"{self.path}: is gone: another program has removed or renamed it; start again") from None
        if file is None or self.is_running():
            if file is not None:
                file.close()
            raise self.in_use()
        return file

    def wait_until_free(self) -> None:
        """Give what is left of an attempt that has ended a moment to go away: `make resume` may come at once.

        Raises UserError if another program has the run, a node is at work, or the run is another user's.
        """
        if problem := self.not_yours():
            raise UserError(problem)
        self.wait_while(lambda: self.is_held() and self.is_about_to_go())
        if self.is_held():
            raise self.in_use()

    def wait_while(self, so: Callable[[], bool]) -> None:
        """Wait while something is so, for as long as what is left of an attempt may take to go away."""
        deadline = time.monotonic() + LAST_ATTEMPT_S
        while so() and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def is_about_to_go(self) -> bool:
        """Tell whether what holds the run is the rest of an attempt that has recorded its end."""
        return self.ended and self.at_work() == self

    def in_use(self) -> UserError:
        """Return the error for a run that something else is at work on."""
        return UserError(
            f"{self.path}: is running; `{self.command('monitor')}` shows it, `{self.command('stop')}` ends it"
        )

    def is_there(self) -> bool:
        """Tell whether the directory holds a run. Raises UserError if this user may not look."""
        try:
            return self.settings_file.is_file()
        except PermissionError:
            raise UserError(owners.not_yours(self.path)) from None

    def gone(self) -> str:
        """Return a line if the directory of this run, which is at work, is not there any more, otherwise ""."""
        if self.is_there():
            return ""
        line = f"{self.path}: is gone: it was removed or renamed while the run was at work"
        resume = "`make resume NAME=…` with its new name continues from its newest checkpoint"
        return line if self.path.name == EVALUATION else f"{line}; if it was renamed, {resume}"

    def is_left_by_another(self) -> bool:
        """Tell whether this is an unfinished run of another user."""
        try:
            return bool(self.not_yours()) and self.state().status != "finished"
        except PermissionError:
            return True

    def not_yours(self) -> str:
        """Return a line if this user may not write everywhere in the run directory, otherwise ""."""
        try:
            folders = [Path(folder) for folder, *_ in os.walk(self.path)]
            kept_open = [path for path in (self.path / ".claim", self.path / ".lock") if path.exists()]
            closed = [path for path in (*folders, *kept_open, *self.log_files()) if not os.access(path, os.W_OK)]
            closed = [path for path in closed if path.exists()]  # not what a checkpoint was written under
        except PermissionError:
            closed = [self.path]
        return owners.not_yours(self.path, closed[0]) if closed else ""

    # Metrics

    def read_metrics(self) -> Iterator[Line]:
        """Yield the logged steps; lines that cannot be read, or are still being written, are left out."""
        return (line for line in self.metrics_lines() if line is not None)

    def metrics_lines(self) -> Iterator[Line | None]:
        """Yield the lines of the metrics, None for one that cannot be read; one still being written is left out."""
        try:
            with self.metrics.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        yield Line.parse(line)
        except FileNotFoundError:
            return

    # Logs

    def log_files(self) -> list[Path]:
        """Return the nodes' logs, in node order."""
        return in_node_order(self.logs.glob("node-*.log"))


@functools.cache
def say_once(text: str) -> None:
    """Print a line if this process has not yet printed it."""
    print(text, flush=True)


def in_node_order(paths: Iterable[Path]) -> list[Path]:
    """Return the files named `node-R.…` of all nodes, in the order of R."""
    matches = [(re.fullmatch(r"node-(\d+)", path.stem), path) for path in paths]
    return [path for _, path in sorted((int(match[1]), path) for match, path in matches if match)]
