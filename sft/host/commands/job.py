"""The program of a Slurm job: `python -m sft.host.commands.job --run runs/NAME`, in place of the job's batch script.

It starts the run's nodes as one job step, passes Slurm's warnings on to the run directory, and judges how the run
ended, as `make train` does on one machine. If the job's time was over before the run was finished, it queues the job
again: the next attempt continues in the same run directory.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from sft.errors import SftError, UserError
from sft.host import screen
from sft.host.commands import ending
from sft.host.commands.attempts import watch_all
from sft.host.commands.report import conclude
from sft.host.launch import signals
from sft.host.launch.open import how_it_starts
from sft.host.launch.signals import StopRequest
from sft.host.launch.slurm import queue
from sft.host.launch.slurm.launcher import Step, port_of
from sft.redaction import guard_tracebacks, redact
from sft.run import lifecycle, typed_json
from sft.run.directory import Run
from sft.run.records import Job
from sft.settings import load, variables
from sft.settings.stages import Decided


def main() -> None:
    """Work on a run. Exit code 0: finished, stopped or queued again; 1: the run failed; 2: the user can fix it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="its directory")
    run = Run(parser.parse_args().run.absolute())
    guard_tracebacks()
    for name, value in load.keys_of(variables.ENV_FILE).items():
        os.environ.setdefault(name.upper(), value)
    try:
        with signals.noted(signal.SIGUSR1) as heard:
            work(run, int(os.environ["SLURM_JOB_ID"]), heard)
    except SftError as error:
        print(redact(str(error)), file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


def work(run: Run, number: int, heard: StopRequest) -> None:
    """See a run through one attempt of the job, and put the job back into the queue if the run is not finished.

    Raises SftError.
    """
    if run.state().status == "finished":
        print(f"{run.path}: is finished; there is nothing to do", flush=True)
        return
    console = screen.terminal()
    run.wait_while(lambda: run.is_held() and not run.is_running())  # who submitted this job still writes that down
    with run.claim():
        begin(run, number)
        saved_before = run.saved_step() or 0
        watched = watch_all(run, Step(run.settings(), number).start, run.settings().restarts, console, heard)
    why = "" if run.stop_reason() == ending.BY_USER else out_of_time(number, heard)
    if why:
        run.request_stop(why)
    conclude(watched, console)
    if why and run.state().status == "stopped":
        queue_again(run, number, saved_before)


def begin(run: Run, number: int) -> None:
    """Make the run ready for this attempt, with a port of the job's own."""
    before = run.settings()
    settings = Decided.of(before, master_port=port_of(number))
    job = run.record(run.job, Job) or Job()
    typed_json.write(run.job, replace(job, number=number))
    if run.state().status == "queued":  # as it was opened on the login node
        run.freeze(Decided.of(settings, run_name=run.name))
        run.update_state("launching")
        return
    for line in lifecycle.reopen(run, before, settings):
        print(line, flush=True)
    print(how_it_starts(run), flush=True)


def out_of_time(number: int, heard: StopRequest) -> str:
    """Return why Slurm wants the job's nodes back while the run could go on: "" if it does not."""
    if heard.stop == "SIGUSR1":
        return ending.TIME_LIMIT
    state = queue.state_of(number)
    return ending.PREEMPTED if state and state.is_preempted else ""


def queue_again(run: Run, number: int, saved_before: int) -> None:
    """Put the job back into the queue. Raises UserError if the attempt has saved nothing: the next would not either."""
    saved = run.saved_step() or 0
    if saved <= saved_before and not run.final.is_dir():
        what = "the job's time was over before a step was saved"
        raise UserError(f"{run.path}: {what}; raise SLURM_TIME, or lower MAX_LENGTH or GLOBAL_BATCH_SIZE")
    print(f"queueing job {number} again: it continues after step {saved}", flush=True)
    queue.requeue(number)  # Slurm ends this program


if __name__ == "__main__":
    main()
