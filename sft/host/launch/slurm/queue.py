"""Slurm's queue: submit a job, ask what became of it, end it. Only Slurm's own commands are called."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sft.errors import UserError
from sft.run.directory import Run
from sft.run.records import Job

TIMEOUT_S = 60  # the controller of a busy cluster is slow to answer
AT_ONCE_S = 5  # for a look at a run, which says less if the controller is away

# Slurm's states in which a job has not started yet, and those in which it is at work or about to end.
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
AT_WORK = ("CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT")
ENDS = {
    "CANCELLED": "was cancelled",
    "TIMEOUT": "ran into its time limit",
    "NODE_FAIL": "lost a node",
    "PREEMPTED": "was preempted",
    "OUT_OF_MEMORY": "needed more memory than it was given",
    "BOOT_FAIL": "got a node that did not start",
    "DEADLINE": "did not end before its deadline",
    "FAILED": "failed",
    "COMPLETED": "has ended",
}

# Variables by which users have Slurm's commands list less, or in another form.
OF_LISTS = re.compile(r"(SINFO|SQUEUE|SCONTROL)_\w+")
# A shell inside of a job has all that Slurm has told that job. Another job would take its limits and its CPUs for its
# own, and srun refuse to start. What says where the cluster is stays, and so do settings of a run.
OF_CLUSTER = re.compile(r"SLURM_(CONF\w*|CLUSTERS|JWT)")
# sbatch's variables, where they are not named as its options are. A variable wins over an option in a script.
VARIABLES = {"time": "SBATCH_TIMELIMIT", "requeue": "SBATCH_NO_REQUEUE"}


class Unanswered(UserError):
    """Slurm has not answered; what it was asked for may happen all the same."""


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a job."""

    number: int
    state: str  # Slurm's word, such as PENDING
    reason: str = ""  # why it waits, such as Resources
    restarts: int = 0  # how often it was requeued
    is_preempted: bool = False  # a job with a higher priority has asked for its nodes since it started

    @property
    def waits(self) -> bool:
        return self.state in WAITING

    @property
    def is_active(self) -> bool:
        """Whether it waits or is at work."""
        return self.waits or self.state in AT_WORK

    def is_rest_of(self, run: Run) -> bool:
        """Whether it only has to go away, as its run has ended."""
        return self.is_active and not self.waits and run.ended and not run.is_running()

    @property
    def words(self) -> str:
        """Say it in words, as in "job 12 is pending (Resources), requeued once"."""
        if not self.is_active:
            return f"job {self.number} {ENDS.get(self.state, f'is {self.state.lower()}')}"
        why = f" ({self.reason})" if self.waits and self.reason not in ("", "None") else ""
        times = (
            ""
            if not self.restarts
            else ", requeued once"
            if self.restarts == 1
            else f", requeued {self.restarts} times"
        )
        return f"job {self.number} is {self.state.lower()}{why}{times}"


def call(*command: str, timeout_s: float | None = None, without: Collection[str] = ()) -> str:
    """Return what one of Slurm's commands prints. Raises UserError with its last line if it fails, and Unanswered.

    `without`: variables that it is not to see.
    """
    environment = {name: value for name, value in os.environ.items() if not OF_LISTS.fullmatch(name)}
    environment = {name: value for name, value in environment.items() if name not in without}
    timeout_s = timeout_s or TIMEOUT_S
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            start_new_session=True,  # a Ctrl-C in the terminal would end sbatch after Slurm has taken the job
        )
    except OSError as error:
        raise UserError(f"{command[0]}: cannot be started ({error.strerror})") from None
    except subprocess.TimeoutExpired:
        raise Unanswered(f"{command[0]}: did not answer within {timeout_s:.0f} s; is Slurm's controller up?") from None
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise UserError(f"{command[0]}: {said[-1] if said else f'ended with exit code {done.returncode}'}")
    return done.stdout


def submit(script: Path) -> int:
    """Submit a job script. Return the job's number. Raises UserError with Slurm's reason.

    A controller that is slow to answer may have taken the job: it is then looked for in the queue.
    """
    try:
        # --parsable prints the number, and behind a semicolon the cluster if there are several.
        return int(call("sbatch", "--parsable", str(script), without=hidden_from(script)).strip().split(";")[0])
    except Unanswered:
        queued = [
            line.split(maxsplit=1) for line in call("squeue", "--noheader", "--me", "--format=%A %o").splitlines()
        ]
        if found := [int(number) for number, command in queued if command == str(script.absolute())]:
            return max(found)
        raise


def hidden_from(script: Path) -> set[str]:
    """Return the variables that a job script must not be submitted with: it would be another job than the script says.

    Those of a job that this program runs in, and sbatch's defaults for options that the script has.
    """
    # Here because a look at a run needs none, and it takes longer than the look.
    from sft.settings.fields import Settings

    options = re.findall(r"^#SBATCH '?--([\w-]+)", script.read_text(encoding="utf-8"), re.MULTILINE)
    found = {f"SBATCH_{option.upper().replace('-', '_')}" for option in options}
    found |= {VARIABLES[option] for option in options if option in VARIABLES}
    if "SLURM_JOB_ID" in os.environ:
        mine = {name for name in os.environ if name.startswith("SLURM_") and not OF_CLUSTER.fullmatch(name)}
        found |= mine - {name.upper() for name in Settings.model_fields}
    return found


def state_of(number: int, timeout_s: float | None = None) -> JobState | None:
    """Return what Slurm says of a job; None if it has forgotten the job, which it does minutes after its end.

    Raises UserError if Slurm cannot be asked.
    """
    try:
        text = call("scontrol", "--oneliner", "show", "job", str(number), timeout_s=timeout_s)
    except UserError as error:
        if "Invalid job id" in str(error):  # scontrol's only sign of it
            return None
        raise
    found = dict(re.findall(r"(\w+)=(\S*)", text.splitlines()[0]))
    return JobState(
        number,
        found.get("JobState", "UNKNOWN"),
        found.get("Reason", ""),
        int(found.get("Restarts", 0)),
        found.get("PreemptTime", "None") not in ("None", "Unknown"),
    )


def job_of(run: Run) -> JobState | None:
    """Return the state of a run's newest job for a look at the run; None if there is none, or Slurm does not say."""
    job = run.record(run.job, Job)
    if job is None or not shutil.which("scontrol"):
        return None
    try:
        return state_of(job.number, AT_ONCE_S)
    except UserError:
        return None


def job_to_act_on(run: Run) -> JobState | None:
    """Return the state of a run's newest job; None if it has none. Raises UserError if Slurm does not say."""
    job = run.record(run.job, Job)
    return state_of(job.number) if job and shutil.which("scontrol") else None


def cancel(number: int) -> None:
    """End a job. Raises UserError."""
    call("scancel", str(number))


def requeue(number: int) -> None:
    """Put a job that runs back into the queue; Slurm ends what is left of it. Raises UserError."""
    call("scontrol", "requeue", str(number))


def hosts() -> list[str]:
    """Return the names of the nodes of the job that this program runs in, in their order. Raises UserError."""
    return call("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()


def address_of(node: str) -> str:
    """Return the address that Slurm itself uses for a node. Raises UserError."""
    found = re.search(r"\bNodeAddr=(\S+)", call("scontrol", "--oneliner", "show", "node", node))
    return found[1] if found else node
