"""A run that waits in a scheduler's queue: submitted, followed, refused a second start."""

from __future__ import annotations

import time

from rich.console import Console

from sft.errors import SettingsError, UserError, wrong
from sft.host.commands.progress import display
from sft.host.commands.watch import Watched
from sft.host.launch import signals
from sft.host.launch.decide import Decision, decide
from sft.host.launch.slurm import queue
from sft.host.launch.slurm.launcher import Queued, Slurm
from sft.run import files
from sft.run.directory import Run
from sft.settings.fields import Settings

POLL_S = 2.0  # Slurm's controller serves a whole cluster
ENDING_S = 60  # what a job may take to leave the queue after its run has ended: KillWait alone is 30 s by default


def refuse_queued(run: Run | None, console: Console) -> None:
    """Raise UserError if a run has a job in the queue: a second one would wait for it in vain.

    A job whose run has ended leaves the queue by itself, unless it is queued again, and is waited for.
    """
    job = queue.job_to_act_on(run) if run else None
    if run and job and job.is_active:
        job = after_its_end(run, job, console)
    if run and job and job.is_active:
        raise UserError(
            f"{run.path}: {job.words}; `{run.command('monitor')}` shows it, `{run.command('stop')}` ends it"
        )


def after_its_end(run: Run, job: queue.JobState, console: Console) -> queue.JobState | None:
    """Return the state of a run's job once it no longer is the rest of an attempt that has ended."""
    deadline = time.monotonic() + ENDING_S
    if is_rest := job.is_rest_of(run):
        console.print(f"waiting for the end of job {job.number}")
    state: queue.JobState | None = job
    while is_rest and time.monotonic() < deadline:
        time.sleep(POLL_S)
        state = queue.job_to_act_on(run)
        is_rest = state is not None and state.is_rest_of(run)
    return state


def submit(run: Run, decision: Decision, console: Console) -> Queued:
    """Write a run's job script and submit it. Raises UserError if Slurm refuses it."""
    assert isinstance(decision.launcher, Slurm)
    files.write_whole(run.job_script, decision.launcher.script(run, decision.settings, decision.plan))
    job = decision.launcher.start(run)
    console.print(f"submitted as job {job.number}: {run.job_script}")
    return job


def tell_how_to_follow(run: Run, console: Console) -> None:
    """Say what shows and what ends a run that was submitted."""
    console.print(f"`{run.command('monitor')}` shows it, `{run.command('stop')}` saves and ends it")


def follow(run: Run, job: Queued, console: Console) -> Watched | None:
    """Show a submitted run until it has ended; None if a signal ends this first, or its job. The run goes on."""
    with display(console) as shown, signals.noted() as heard:
        while not heard.stop and None in job.codes():  # the run may end at a time limit, and its job goes on
            shown.show(run.state())
            time.sleep(POLL_S)
        if heard.stop:
            return None
        shown.show(run.state())
    if not run.ended:
        return None
    return Watched(run, interrupted=False, failure=run.failure() if run.state().status == "failed" else None)


def show_script(written: Settings) -> None:
    """Print the job script that `make train` would submit. Raises SftError."""
    decision = decide(written)
    if not isinstance(decision.launcher, Slurm):
        what = f"nothing is submitted with LAUNCHER={decision.launcher.name}"
        raise SettingsError([wrong("DRY_RUN", 1, what, "set LAUNCHER=slurm, or see `make plan`")])
    run = Run(written.runs_path / (written.run_name or "NAME"))
    print(decision.launcher.script(run, decision.settings, decision.plan), end="")
