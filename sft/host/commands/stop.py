"""`make stop`: ask a run to save and end, and wait until it has."""

from __future__ import annotations

import time

from rich.console import Console

from sft.errors import UserError
from sft.host.commands import ending
from sft.host.commands.progress import display
from sft.host.launch.slurm import queue
from sft.run.directory import Run
from sft.run.find import at_work
from sft.run.records import ENDED, State

POLL_S = 0.2


def run_to_stop(latest: Run) -> Run:
    """Return the run that `make stop` without NAME means: the latest, or the only one that runs. Raises UserError."""
    if latest.is_held() or job_to_cancel(latest):
        return latest
    working = at_work(latest.path.parent)
    if len(working) == 1:
        return working[0]
    if working:
        commands = ", ".join(f"`{run.command('stop')}`" for run in working)
        raise UserError(f"{latest.path}: is not running, but {len(working)} others are; stop one of them: {commands}")
    raise UserError(
        f"{latest.path}: is not running ({status_of(latest)}), and no other run is; there is nothing to stop"
    )


def job_to_cancel(run: Run) -> queue.JobState | None:
    """Return the job that would begin or continue a run which is not at work; None if there is none.

    The job of a run that is finished, or was stopped by its user, goes away by itself. Raises UserError if Slurm cannot
    be asked.
    """
    if run.is_held() or run.state().status == "finished":
        return None
    job = queue.job_to_act_on(run)
    if job is None or not job.is_active or (job.is_rest_of(run) and run.stop_reason() == ending.BY_USER):
        return None
    return job


def status_of(run: Run) -> str:
    """Return the status of a run that is not running, in words."""
    state = run.record(run.state_file, State)
    if state is None:
        return "its state.json is missing or cannot be read"
    return state.status if state.status in ENDED else f"it was interrupted while {state.status}"


def stop(run: Run, console: Console) -> None:
    """Stop a run after its current step, or take its job out of the queue. Raises UserError if it is not running."""
    # What started a run that has ended goes away, or starts the next attempt.
    run.wait_while(lambda: run.is_held() and run.ended and not run.is_running())
    if job := job_to_cancel(run):
        cancel(run, job, console)
        return
    if not run.can_be_stopped():
        others = "".join(f"; {other.name} is: `{other.command('stop')}`" for other in others_at_work(run))
        raise UserError(f"{run.path}: is not running ({status_of(run)}){others or '; there is nothing to stop'}")
    if run.at_work() != run:
        end_evaluation(run.at_work(), console)
        return
    console.print(f"stopping {run.name}{ending.stopping(run.state())}")
    state = stopped(run, console)
    if state.status == "stopped":
        console.print(ending.stopped(run, run.command("resume")))
    elif state.status not in ENDED:  # its programs were killed
        console.print(f"{status_of(run)}; {ending.how_to_continue(run, run.command('resume'))}")
        if job := job_to_cancel(run):
            cancel(run, job, console)
    else:
        console.print(f"it {state.status} before it could stop" + (f": {state.error}" if state.error else ""))
        if state.status == "failed":
            console.print(ending.how_to_continue(run, run.command("resume")))
    for other in others_at_work(run):
        console.print(f"{other.name} is still at work: `{other.command('stop')}`")


def others_at_work(run: Run) -> list[Run]:
    """Return the other runs of the folder that something is at work on."""
    return [other for other in at_work(run.path.parent) if other != run]


def cancel(run: Run, job: queue.JobState, console: Console) -> None:
    """Take a run's job out of the queue, or end it before it is at work."""
    queue.cancel(job.number)
    if not run.ended:
        run.update_state("stopped")
    console.print(f"{job.words}: cancelled; {ending.how_to_continue(run, run.command('resume'))}")


def end_evaluation(again: Run, console: Console) -> None:
    """Stop `make evaluate`; the run itself stays finished."""
    console.print(f"stopping {again.name}: the run itself stays as it is")
    status = stopped(again, console).status
    console.print("stopped" if status == "stopped" else f"it {status} before it could stop")


def stopped(run: Run, console: Console) -> State:
    """Ask a run to stop, show it until it has ended, and return its last state."""
    try:
        run.request_stop(ending.BY_USER)
        with display(console) as shown:
            while run.can_be_stopped():
                shown.show(run.state())
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        console.print(f"{run.name} stops all the same; `{run.command('monitor')}` shows whether it has")
        raise
    return run.state()
