"""The life of a run directory: created, reopened, evaluated again, discarded."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sft import hostfile
from sft.errors import SettingsError, UserError, wrong
from sft.run import files, logs, owners
from sft.run.directory import EVALUATION, OLD_FAILURE, Run
from sft.run.files import write_json, write_whole
from sft.run.find import latest
from sft.run.records import StateChanges
from sft.settings import deepspeed, rules
from sft.settings.deepspeed import DsConfig
from sft.settings.fields import Settings
from sft.settings.stages import Decided

# What decides the answers of an evaluation and how they are scored, so that two of them can be compared.
OF_ANSWERS = ("eval_limit", "eval_answer", "max_new_tokens")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let no other program open a run in `folder` meanwhile; wait for one that does now. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    file = files.lock(path, wait=True)
    assert file is not None
    with file:
        with contextlib.suppress(PermissionError):  # another user has created it
            path.chmod(0o666)  # where several users share the folder, all of them need the lock
        yield


def create(settings: Decided, hosts: str, config: DsConfig | None = None) -> Run:
    """Make the run directory with its frozen inputs, and point `runs/latest` to it. `hosts` is the hostfile's text.

    `config`: DeepSpeed's configuration, if it has been made from the settings already. Raises SettingsError if RUN_NAME
    is taken or nothing can be written, and leaves no directory behind.
    """
    run = make_directory(settings)
    try:
        run.logs.mkdir()
        run.checkpoints.mkdir()
        run.ranks.mkdir()
        named = Decided.of(settings, run_name=run.name)
        run.freeze(named)  # first: without this file, a directory does not count as a run
        write_whole(run.identity_file, uuid.uuid4().hex + "\n")
        write_json(run.ds_config, (config or deepspeed.configuration(named)).content)
        write_whole(run.hostfile, hosts)
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
                what, remedy = f"{run.path} already exists", "use another name, or FRESH=1, which sets that one aside"
                raise SettingsError([wrong("RUN_NAME", name, what, remedy)]) from None
        except OSError as error:
            raise not_writable(settings, error) from None


def not_writable(settings: Settings, error: OSError) -> SettingsError:
    """Return the error for a run directory that cannot be made."""
    what = f"no run directory can be made there ({error.strerror})"
    return SettingsError([wrong("RUNS_PATH", settings.runs_path, what, owners.remedy(settings.runs_path, error))])


def default_name(settings: Settings) -> str:
    """Return a new run's name: date, time and model. For a model in a run's final/, the model's name is that run's."""
    path = Path(settings.model_name)
    name = path.resolve().parent.name if path.name == "final" else path.name
    model = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:60]
    return time.strftime("%Y%m%d-%H%M%S-") + model


def reopen(
    run: Run,
    before: Decided,
    changed: Decided | None = None,
    config: DsConfig | None = None,
    new_config: bool = False,
    again: bool = False,
) -> list[str]:
    """Make a stopped or failed run ready for its next attempt: remove its stop requests, and freeze its new settings.

    `before` are the settings of the last attempt; without `changed` ones they apply again. `state.json` counts the
    attempts, keeps the errors of the earlier ones, and has the step at which the run resumes. The hostfile and
    DeepSpeed's configuration are kept unless the number of ranks has changed or they cannot be read (then the returned
    lines say so). Results of an evaluation that the next one could not be compared with are removed. `config` replaces
    DeepSpeed's configuration if `new_config`. MAX_HOURS counts from now, unless this attempt belongs to the same start
    (`again`).
    """
    settings = changed or before
    said: list[str] = []
    clear(run, keep_stop=again)
    if run.evaluation.is_file() and rules.compared(settings, before, list(OF_ANSWERS)):
        for path in (run.evaluation, run.answers):
            path.unlink(missing_ok=True)
        if settings.evaluate:
            said.append("  the base model is evaluated again, to be compared with the tuned one")
    new_hostfile = (settings.nodes, settings.gpus_per_node) != (before.nodes, before.gpus_per_node)
    new_config = new_config or new_hostfile
    new_hostfile = new_hostfile or settings.host_names != before.host_names
    try:
        hostfile.read_hostfile(run.hostfile)
    except UserError as error:
        new_hostfile = True
        said.append(f"warning: {error}; writing a new one from the settings")
    try:
        run.deepspeed_config()
    except (OSError, files.Unreadable):
        new_config = True
        said.append(f"warning: {run.ds_config}: cannot be read; writing a new one from the settings")
    if new_hostfile:
        write_whole(run.hostfile, hostfile.hostfile(settings.nodes, settings.gpus_per_node, settings.host_names))
    if new_config:
        write_json(run.ds_config, (config or deepspeed.configuration(settings)).content)
    # Last: if this is interrupted, the old settings still tell the next start that the other files are out of date.
    run.freeze(Decided.of(settings, run_name=run.name))
    run.keep_reserve()
    restate(run, again)
    logs.begin_attempt(run)
    point_latest(run)
    return said


def clear(run: Run, keep_stop: bool = False) -> None:
    """Remove what the last attempt left: requests, failures, what its nodes wrote, unreadable and temporary files.

    `keep_stop`: a request to stop that has come since then is for the next attempt.
    """
    requests = () if keep_stop else (run.path / "stop",)
    failures = (run.failure_file, run.path / OLD_FAILURE)
    for path in (*requests, *failures, run.prepared, *run.path.glob("node-*.json")):
        path.unlink(missing_ok=True)
    shutil.rmtree(run.ranks, ignore_errors=True)
    for folder in (run.logs, run.checkpoints, run.ranks):
        folder.mkdir(exist_ok=True)  # it may have been deleted to make room
    for path in run.unreadable_paths():
        path.replace(path.with_name(f"{path.name}.unreadable"))  # it has been reported, and is not at every start
    for folder in (run.path, run.checkpoints):
        files.sweep(folder, files=True)  # left by processes that were killed while they wrote


def evaluate_again(run: Run, settings: Decided) -> Run:
    """Make a directory inside the run's own in which it is evaluated again; the run itself stays unchanged.

    It holds copies of the run's inputs and a link to its final model.
    """
    again = Run(run.path / EVALUATION)
    shutil.rmtree(again.path, ignore_errors=True)  # the logs of an earlier evaluation
    again.logs.mkdir(parents=True)
    again.ranks.mkdir()
    again.final.symlink_to(Path("..", run.final.name))
    for path in (run.hostfile, run.ds_config, run.chat_template, run.environment, run.budget):
        if path.is_file():
            shutil.copy(path, again.path)
    again.freeze(settings)
    again.keep_reserve()
    again.update_state("launching")
    return again


def restate(run: Run, again: bool) -> None:
    """Write `state.json` for a run's next attempt."""
    state, now = run.state(), time.time()
    changes: StateChanges = {"attempt": state.attempt + 1, "attempt_started_at": now, "error": None}
    changes["earlier_errors"] = [*state.earlier_errors, *([state.error] if state.error else [])]
    changes["hours_from"] = (state.hours_from if again else None) or now
    if not run.final.is_dir():  # steps after the checkpoint are lost
        step = run.saved_step() or 0
        changes |= {"step": step, "epoch": state.epoch * step / state.step if state.step else 0.0}
    changes |= {"loss": None, "tokens_per_second": None, "time_left_s": None, "warnings": []}
    run.update_state("launching", **changes)


def discard(run: Run, before: Run | None) -> None:
    """Remove a run that trained nothing, and make `runs/latest` point to the run `before` it again."""
    if latest(run.path.parent) == run:
        if before and before.path.is_dir():
            point_latest(before)
        else:
            (run.path.parent / "latest").unlink(missing_ok=True)
    shutil.rmtree(run.path, ignore_errors=True)


def point_latest(run: Run) -> None:
    """Make `runs/latest` a link to the run."""
    link = files.temporary_name(run.path / "latest")  # in the run's directory, which nobody else writes to
    link.symlink_to(run.name)
    link.replace(run.path.parent / "latest")
    files.flush(run.path.parent)
