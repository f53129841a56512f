"""A run as a Slurm job: warned at its time limit, preempted, cancelled, broken, and the same in the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sft.errors import UserError
from sft.host.commands.ending import BY_USER
from sft.host.launch.slurm import queue
from sft.host.launch.slurm.launcher import Slurm
from sft.run.directory import Run
from sft.run.records import Job
from tests.e2e.project import CURVE, Hold, Project, metrics, small, unending
from tests.pages import words_of

from .cluster import Cluster

WAIT_S = 240


@pytest.fixture(scope="module")
def undisturbed(project: Project) -> Run:
    """The same run on this machine without Slurm."""
    return project.train("undisturbed", LAUNCHER="local")


def submitted(project: Project, name: str, **settings: object) -> tuple[Run, int]:
    """Return a run and the number of its job."""
    done = project.inv("train", **small(RUN_NAME=name, **settings))
    assert done.returncode == 0, done.stdout
    run = Run(project.path / "runs" / name)
    job = run.record(run.job, Job)
    assert job and f"submitted as job {job.number}" in done.stdout
    return run, job.number


def wait(run: Run, true: Callable[[], bool], seconds: float = WAIT_S) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{run.state()}\n{log(run)}"
        time.sleep(0.5)  # most conditions ask Slurm, with a program of its own


def log(run: Run) -> str:
    """Return what the run's jobs and nodes have printed."""
    return "".join(path.read_text(errors="replace") for path in sorted(run.logs.glob("*.log")))


def state(number: int) -> queue.JobState:
    found = queue.state_of(number)
    assert found is not None
    return found


def left_queue(run: Run, number: int) -> queue.JobState:
    """Return the state of a job once it is neither waiting nor at work."""
    wait(run, lambda: not state(number).is_active)
    return state(number)


def same(run: Run, other: Run) -> None:
    """Check that two runs have trained the same, and that no step was logged twice."""
    assert metrics(run, *CURVE) == metrics(other, *CURVE)
    ours, theirs = (one.final / "model.safetensors" for one in (run, other))
    assert ours.read_bytes() == theirs.read_bytes()


def nothing_is_left(project: Project) -> None:
    project.wait_for_no_process()


def test_the_commands_of_the_page_from_the_script_to_a_resumed_job(project):
    """As docs/clusters.md has them, but for the partition and the ranks of a node, of which there are fewer here."""
    page = "docs/clusters.md"
    place = {"SLURM_PARTITION": "low", "GPUS_PER_NODE": "1"}
    given = small(RUN_NAME="page", **unending())
    settings = {name: value for name, value in given.items() if name not in place}
    run = Run(project.path / "runs" / "page")

    def typed(beginning: str, **instead: str) -> str:
        process = project.start(*words_of(page, beginning, **instead), **settings)
        said, _ = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, said
        return said

    settings["GPUS_PER_NODE"] = 1
    assert "#SBATCH --nodes=2" in typed("make train DRY_RUN=1") and not run.path.exists()
    assert "submitted as job" in typed("make train LAUNCHER=slurm", **place)
    wait(run, lambda: run.state().step >= 3)
    del settings["RUN_NAME"]  # the latest run
    assert "step" in typed("make monitor") and "node-1 | " in typed("make logs")
    assert "saved as step-" in typed("make stop")
    step = run.saved_step() or 0
    assert "submitted as job" in typed("make resume")  # at once: it waits for what is left of the job
    wait(run, lambda: run.state().step > step)
    typed("make stop")
    assert run.state().status == "stopped" and run.state().attempt == 2
    nothing_is_left(project)


def test_at_its_time_limit_a_run_is_saved_goes_on_until_it_is_finished_and_is_not_begun_again(
    project, undisturbed, tmp_path
):
    hold, begun = Hold(tmp_path, step=5), time.monotonic()
    run, number = submitted(project, "limited", SLURM_TIME="30", **hold.settings)
    wait(run, lambda: hold.held)
    # One to two minutes from now, however long it took to come here: the warning comes two minutes before the end.
    limit = int((time.monotonic() - begun) // 60) + 2
    queue.call("scontrol", "update", f"JobId={number}", f"TimeLimit={limit}")
    wait(run, lambda: run.stop_reason() is not None)
    hold.release()
    wait(run, lambda: state(number).restarts == 1 and state(number).waits)
    queue.call("scontrol", "hold", str(number))  # so that it still waits while it is looked at
    assert run.state().status == "stopped" and hold.step <= (run.saved_step() or 0) < 12
    shown = project.inv("monitor", "--once", "--name", run.name).stdout
    assert "stopped (time limit)" in shown and f"job {number} is pending" in shown and "not running" not in shown
    queue.call("scontrol", "update", f"JobId={number}", "TimeLimit=30")  # the rest at once
    queue.call("scontrol", "release", str(number))
    assert left_queue(run, number).state == "COMPLETED"
    assert run.state().status == "finished" and run.state().attempt == 2
    same(run, undisturbed)
    again = queue.submit(run.job_script)  # as a chain of jobs does
    assert left_queue(run, again).state == "COMPLETED" and run.state().attempt == 2
    assert "is finished; there is nothing to do" in (run.logs / f"job-{again}.log").read_text()
    nothing_is_left(project)


def test_a_job_that_is_preempted_three_times_ends_with_the_same_model(project, undisturbed, tmp_path):
    holds = [Hold(tmp_path, step) for step in (3, 6, 9)]
    run, number = submitted(project, "preempted", **holds[0].settings | {"HOLD_AT": "3,6,9"})
    urgent = tmp_path / "urgent.sh"
    urgent.write_text("#!/bin/bash\n#SBATCH --nodes=2 --exclusive --partition=high --output=/dev/null\nsleep 1\n")
    for times, hold in enumerate(holds, 1):
        wait(run, lambda hold=hold: hold.held)
        queue.submit(urgent)
        wait(run, lambda: run.stop_reason() is not None)
        hold.release()
        wait(run, lambda times=times: state(number).restarts == times)
        assert run.stop_reason() == "preempted" and run.saved_step() == run.state().step >= hold.step
    assert left_queue(run, number).state == "COMPLETED"
    assert run.state().status == "finished" and run.state().attempt == 4
    same(run, undisturbed)


def test_a_warning_by_hand_saves_and_queues_again_and_make_stop_ends_it(project):
    run, number = submitted(project, "warned", **unending())
    wait(run, lambda: run.state().step >= 3)
    queue.call("scancel", "--signal=USR1", "--batch", str(number))
    wait(run, lambda: state(number).restarts == 1)
    assert run.state().status == "stopped" and run.saved_step() == run.state().step
    waiting = project.inv("train", **small(RUN_NAME=run.name, **unending()))
    assert waiting.returncode == 2 and f"job {number} is" in waiting.stdout, waiting.stdout
    step = run.state().step
    wait(run, lambda: run.state().status == "training" and run.state().step > step)
    done = project.inv("stop", "--name", run.name)
    assert done.returncode == 0 and "saved as step-" in done.stdout, done.stdout
    assert left_queue(run, number).state == "COMPLETED" and state(number).restarts == 1
    nothing_is_left(project)


def test_who_follows_a_run_sees_it_through_its_time_limits_and_a_stop_meanwhile_is_the_users(project, tmp_path):
    hold, again = Hold(tmp_path, step=3), Hold(tmp_path, step=6)
    run = Run(project.path / "runs" / "seen-through")
    settings = small(RUN_NAME=run.name, **unending() | hold.settings | {"HOLD_AT": "3,6"})
    following = project.start("train", "--follow", **settings)
    wait(run, lambda: hold.held)
    job = run.record(run.job, Job)
    queue.call("scancel", "--signal=USR1", "--batch", str(job.number))
    wait(run, lambda: run.stop_reason() is not None)
    hold.release()
    wait(run, lambda: again.held)
    assert state(job.number).restarts == 1 and following.poll() is None
    queue.call("scancel", "--signal=USR1", "--batch", str(job.number))  # the next warning, and then its user's stop
    wait(run, lambda: run.stop_reason() is not None)
    asking = project.start("stop", "--name", run.name)
    wait(run, lambda: run.stop_reason() == BY_USER)
    again.release()
    said, _ = asking.communicate(timeout=WAIT_S)
    assert "saved as step-" in said, said
    output, _ = following.communicate(timeout=WAIT_S)
    assert following.returncode == 0 and "reason: `make stop`" in output, output
    assert left_queue(run, job.number).state == "COMPLETED" and state(job.number).restarts == 1
    nothing_is_left(project)


def test_scancel_saves_and_leaves_nothing_behind(project):
    run, number = submitted(project, "cancelled", **unending())
    wait(run, lambda: run.state().step >= 3)
    queue.cancel(number)
    assert left_queue(run, number).state == "CANCELLED"
    wait(run, lambda: run.ended)
    assert run.state().status == "stopped" and run.saved_step() == run.state().step
    shown = project.inv("monitor", "--once", "--name", run.name).stdout
    assert f"job {number} was cancelled" in shown and "make resume NAME=cancelled" in shown
    nothing_is_left(project)


def test_a_job_that_waits_is_shown_and_taken_out_of_the_queue(project, cluster: Cluster, tmp_path):
    busy = tmp_path / "busy.sh"
    busy.write_text("#!/bin/bash\n#SBATCH --nodes=2 --exclusive --output=/dev/null\nsleep 300\n")
    first = queue.submit(busy)
    run, number = submitted(project, "waiting")
    shown = project.inv("monitor", "--once", "--name", run.name).stdout
    assert f"job {number} is pending" in shown and "not running" not in shown, shown
    done = project.inv("stop", "--name", run.name)
    assert done.returncode == 0 and "cancelled" in done.stdout, done.stdout
    assert run.state().status == "stopped" and not state(number).is_active
    queue.cancel(first)


def test_a_job_whose_number_came_too_late_is_found_in_the_queue(cluster: Cluster, tmp_path, monkeypatch):
    script = tmp_path / "a folder" / "job.sh"
    script.parent.mkdir()
    script.write_text("#!/bin/bash\n#SBATCH --hold --output=/dev/null\ntrue\n")
    slow = tmp_path / "bin" / "sbatch"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/bash\n{shutil.which("sbatch")} "$@" >{tmp_path}/said\nsleep 100\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(queue, "TIMEOUT_S", 5)
    monkeypatch.chdir(tmp_path)
    number = queue.submit(script.relative_to(tmp_path))
    assert number == int((tmp_path / "said").read_text()) and state(number).waits
    slow.write_text("#!/bin/bash\nsleep 100\n")  # and never asks Slurm
    queue.cancel(number)
    with pytest.raises(queue.Unanswered, match="sbatch: did not answer within 5 s"):
        queue.submit(script)


def test_a_job_that_cannot_be_written_down_does_not_stay_in_the_queue(cluster: Cluster, tmp_path):
    run = Run(tmp_path / "run")
    (run.job / "in the way").mkdir(parents=True)  # as a full disk would be
    run.job_script.write_text("#!/bin/bash\n#SBATCH --hold --output=/dev/null\ntrue\n")
    with pytest.raises(UserError, match=r"cannot be written \(.+\), so job \d+ was cancelled; make room") as caught:
        Slurm().start(run)
    number = next(int(word) for word in str(caught.value).split() if word.isdigit())
    assert not state(number).is_active


def test_a_rank_that_is_killed_is_started_again(project, tmp_path):
    hold = Hold(tmp_path, step=12)
    run, number = submitted(project, "killed", RESTARTS=1, SAVE_STEPS=5, MAX_STEPS=20, **hold.settings)
    wait(run, lambda: hold.held and (run.saved_step() or 0) >= 5)
    project.running("--local_rank=0")[0].kill()
    hold.release()
    assert left_queue(run, number).state == "COMPLETED"
    assert run.state().status == "finished" and "killed by signal 9" in run.state().earlier_errors[0]
    nothing_is_left(project)


def test_a_node_that_is_lost_gives_the_job_back_to_the_queue(project, cluster: Cluster, tmp_path):
    hold = Hold(tmp_path, step=12)
    run, number = submitted(project, "lost", SAVE_STEPS=5, MAX_STEPS=20, **hold.settings)
    wait(run, lambda: hold.held and (run.saved_step() or 0) >= 5)
    cluster.end("n1", signal.SIGKILL)
    steps = subprocess.run(["pgrep", "-f", rf"slurmstepd: \[{number}\.0\]"], capture_output=True, text=True, check=True)
    subprocess.run(["kill", "-9", steps.stdout.split()[-1]], check=True)  # the machine is gone, and all on it
    hold.release()
    wait(run, lambda: state(number).restarts >= 1 or not state(number).is_active)
    cluster.start_node("n1")
    assert left_queue(run, number).state == "COMPLETED", log(run)
    assert run.state().status == "finished"
    nothing_is_left(project)


def test_the_job_outlives_the_controller_and_the_login(project, cluster: Cluster):
    process = project.start("train", "--follow", **small(RUN_NAME="followed", **unending()))
    run = Run(project.path / "runs" / "followed")
    wait(run, lambda: run.state().step >= 2)
    cluster.end("ctld")
    try:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        cluster.start_controller()
    assert process.returncode == 0 and "make monitor NAME=followed" in output, output
    assert run.is_running() and run.stop_reason() is None
    step = run.state().step
    wait(run, lambda: run.state().step > step)
    assert project.inv("stop", "--name", run.name).returncode == 0
    job = run.record(run.job, Job)
    assert job
    assert left_queue(run, job.number).state == "COMPLETED" and run.state().status == "stopped"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"SLURM_PARTITION": "nosuch"}, "SLURM_PARTITION=nosuch: "),
        ({"SLURM_TIME": "soon"}, "SLURM_TIME=soon: is not a time limit"),
        ({"SLURM_CONSTRAINT": "gold"}, "sbatch: "),
        ({"NODES": 3}, "NODES=3: the partition has 2 nodes"),
        ({"DEVICE": "cuda"}, "no NVIDIA GPU is visible in the partition"),
        ({"SLURM_EXTRA": "--no-such-option"}, "sbatch: "),
    ],
)
def test_what_slurm_does_not_have_is_said_at_once(project, settings, message):
    done = project.inv("train", **small(RUN_NAME="wrong", **settings))
    assert done.returncode == 2 and message in done.stdout and "Traceback" not in done.stdout, done.stdout
    assert not Path(project.path / "runs" / "wrong").exists(), "no run is left that never was in the queue"


def test_what_the_shell_around_it_has_for_other_jobs_changes_nothing(project, undisturbed):
    """A shell of a job, as `srun --pty bash` gives it, on a cluster whose users export nothing to their jobs."""
    of_another_job = {"SLURM_JOB_ID": 1, "SLURM_MEM_PER_CPU": 10, "SLURM_MEM_PER_NODE": 20, "SLURM_CPUS_PER_TASK": 3}
    defaults = {"SBATCH_EXPORT": "NONE", "SBATCH_TIMELIMIT": 1, "SBATCH_PARTITION": "high", "SBATCH_NO_REQUEUE": 1}
    shown = {"SINFO_PARTITION": "nosuch", "SQUEUE_STATES": "RUNNING"}
    more = {"SLURM_PARTITION": "low", "SLURM_TIME": "30", **of_another_job, **defaults, **shown}
    run, number = submitted(project, "shell", **more)
    asked = queue.call("scontrol", "--oneliner", "show", "job", str(number))
    assert "Partition=low" in asked and "TimeLimit=00:30:00" in asked and "Requeue=1" in asked, asked
    left_queue(run, number)
    assert run.state().status == "finished", log(run)
    same(run, undisturbed)


def test_the_script_can_be_read_before_it_is_submitted(project):
    done = project.inv("train", "--dry-run", **small(RUN_NAME="dry", SLURM_TIME="2:00:00", SLURM_EXTRA="--mem=0"))
    for line in ("#SBATCH --time=2:00:00", "#SBATCH --mem=0", "#SBATCH --nodes=2", "#SBATCH --signal=B:USR1@120"):
        assert line in done.stdout.splitlines()
    assert not (project.path / "runs" / "dry").exists()
