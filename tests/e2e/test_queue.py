"""`make train LAUNCHER=slurm` that a signal ends while Slurm takes the job: programs in place of Slurm's, real ones."""

import os
import signal

import pytest

from sft.run.directory import Run
from sft.run.records import Job

from .project import TIMEOUT_S, small, wait_until

pytestmark = pytest.mark.real

# Slurm has the job before sbatch says its number: a busy controller takes seconds in between.
PROGRAMS = {
    "sinfo": "echo '4|8|(null)|64000|cpu*'",
    "sbatch": "touch $SLURM/accepted; while [ ! -e $SLURM/answer ]; do sleep 0.05; done; echo 42",
    "scontrol": "exit 1",
    "srun": "exit 1",
    "scancel": 'echo "$@" >> $SLURM/cancelled',
}


@pytest.fixture
def slurm(tmp_path):
    """A folder of programs that are named as Slurm's, with what they are told and what sbatch waits for."""
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def settings(slurm, name):
    path = f"{slurm}{os.pathsep}{os.environ['PATH']}"
    return small(RUN_NAME=name, LAUNCHER="slurm", PATH=path, SLURM=slurm)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM], ids=lambda number: number.name)
def test_a_job_that_slurm_took_while_a_signal_came_is_cancelled(project, slurm, number):
    name = f"interrupted-{number.name}"
    run = Run(project.path / "runs" / name)
    process = project.start("train", **settings(slurm, name))
    wait_until((slurm / "accepted").exists, process, run)
    os.killpg(process.pid, number)  # as a terminal does: to the task and to what it has started there
    (slurm / "answer").touch()
    said, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + number and f"ended by {number.name}" in said, said
    assert (slurm / "cancelled").read_text() == "42\n"
    assert (run.record(run.job, Job) or Job()).number == 42 and run.state().status == "stopped"
    assert f"job 42: cancelled; `make resume NAME={name}` starts it again" in said.replace("\n", " ")


def test_a_job_that_cannot_be_cancelled_is_known_to_the_run(project, slurm):
    (slurm / "scancel").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    run = Run(project.path / "runs" / "not-cancelled")
    process = project.start("train", **settings(slurm, run.name))
    wait_until((slurm / "accepted").exists, process, run)
    os.killpg(process.pid, signal.SIGINT)
    (slurm / "answer").touch()
    said, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2 and "job 42 stays in the queue" in said, said
    assert (run.record(run.job, Job) or Job()).number == 42 and run.state().status == "queued"
