"""`make train`, `make demo` and `make resume`: from settings to a finished run."""

from __future__ import annotations

import os
import signal

from rich.console import Console

from sft import template_files
from sft.errors import UserError
from sft.host import provenance
from sft.host.commands import ending, submit
from sft.host.commands.attempts import watch_all
from sft.host.commands.report import conclude
from sft.host.launch import signals
from sft.host.launch.decide import Decision, decide
from sft.host.launch.open import open_run
from sft.host.launch.slurm.launcher import Queued
from sft.run import find, lifecycle, unfinished
from sft.run.directory import Run
from sft.run.records import Environment, Start
from sft.settings import load, rules, variables
from sft.settings.fields import Settings
from sft.settings.stages import Decided


def train(written: Settings, console: Console, follow: bool = False) -> Run:
    """Run the whole pipeline, or resume it, and print the result. Raises SftError.

    A run that a scheduler starts is submitted only; `follow` shows it until it has ended.
    """
    submit.refuse_queued(unfinished.requested(written), console)  # before its port is in use
    decision = decide(written)
    for line in decision.lines:
        console.print(line)
    decision = decision.prepared(console)
    if decision.launcher.queues:
        return train_in_queue(decision, console, follow)
    latest = find.latest(written.runs_path)
    with signals.noted() as heard, open_run(decision, console.print) as run:
        watched = watch_all(run, decision.launcher.start, decision.settings.restarts, console, heard)
        if watched.found_wrong:
            reason = run.state().error
            lifecycle.discard(run, latest)
            console.print(f"{run.path} is removed: nothing was trained")
            raise UserError(reason)
        conclude(watched, console)  # before another program may resume the run, and change what is read here
    return run


def train_in_queue(decision: Decision, console: Console, follow: bool) -> Run:
    """Open a run and submit it. Raises SftError, and then leaves no run behind that has not trained.

    A signal waits until the job is known to the run, and takes it out of the queue then. Raises Interrupted.
    """
    latest = find.latest(decision.settings.runs_path)
    with signals.noted() as heard, open_run(decision, console.print) as run:
        try:
            job = submit.submit(run, decision, console)
        except UserError:
            if not run.has_trained:
                lifecycle.discard(run, latest)
            raise
        if heard.stop:
            take_back(run, job, console)
            raise signals.Interrupted(signal.Signals[heard.stop])
    if follow and (watched := submit.follow(run, job, console)):
        conclude(watched, console)
    else:
        submit.tell_how_to_follow(run, console)
    return run


def take_back(run: Run, job: Queued, console: Console) -> None:
    """Cancel a job that has just been submitted: this program still has the run's claim, so that it cannot begin.

    Raises UserError if Slurm does not answer.
    """
    try:
        job.end_now()
    except UserError as error:
        what = f"job {job.number} stays in the queue, as it could not be cancelled ({error})"
        raise UserError(f"{run.path}: {what}; `{run.command('stop')}` ends it") from None
    run.update_state("stopped")
    console.print(f"job {job.number}: cancelled; {ending.how_to_continue(run, run.command('resume'))}")


def resume(name: str, console: Console, follow: bool = False) -> Run:
    """Resume the named run, or the newest unfinished one, with its own settings. Raises SftError."""
    run, said = unfinished.to_resume(variables.runs_path(), name or os.environ.get("RUN_NAME", ""))
    for line in said:
        console.print(line)
    return train(load.resume(run.settings(), run_name=run.name, runs_path=run.path.parent), console, follow)


def repeat(before: Run, console: Console) -> None:
    """Train a new run with the settings of an earlier one, and print what differs from then. Raises SftError."""
    noted = before.record(before.environment, Environment)
    inputs = noted.began.inputs if noted else None
    frozen = before.settings().freeze()
    if commit := inputs.model_commit if inputs else None:
        frozen["model_revision"] = commit
    if changed_template(before):
        frozen["chat_template"] = str(before.chat_template)
    settings = load.repeat(frozen)
    console.print(f"repeating {before.path}")
    now = provenance.current()
    then = Decided.of(before.settings(), **({"model_revision": commit} if commit else {}))
    changed = [*rules.changed(settings, then), *rules.adjusted(settings, then)]
    lines = [f"{name} was {was}, is {value}" for name, value, was in changed]
    lines += provenance.differences(noted.began, now) if noted else [f"{before.environment.name} is missing"]
    for line in lines:
        console.print(f"  differs: {line}")
    run = train(settings, console)
    for line in provenance.differences(Start(inputs=inputs), provenance.read(run).began):
        console.print(f"  differs: {line}")


def changed_template(run: Run) -> bool:
    """Whether the file that CHAT_TEMPLATE names is not what a run was trained with, or is gone."""
    if not run.chat_template.is_file():
        return False
    settings = run.settings()
    path = template_files.file_of(settings)
    try:
        return path is None or template_files.read(path, settings.chat_template) != run.chat_template.read_text("utf-8")
    except UserError:
        return True
