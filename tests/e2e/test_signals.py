"""Whatever signals come, to whomever: the run is stopped, its last step is in a checkpoint, no process is left."""

import contextlib
import os
import signal
import time

import psutil
import pytest

from sft.host.launch.signals import AGAIN_S
from sft.run.directory import Run

from .project import TIMEOUT_S, small, wait_until

pytestmark = pytest.mark.real

# Steps of a few milliseconds, and none saved unless a stop saves it.
ENDLESS = small(NODES=1, MAX_STEPS=0, MAX_EPOCHS=1000, SAVE_STEPS=0)


def time_is_over(project, process):
    process.send_signal(signal.SIGALRM)  # as its own timer: it signals make, and then its whole group


def closed_terminal(project, process):
    os.killpg(process.pid, signal.SIGHUP)


def service_stopped(project, process):
    for number in (signal.SIGTERM, signal.SIGHUP):  # to every process, as systemd may, and as the end of a session is
        for found in project.processes():
            with contextlib.suppress(psutil.Error):  # the signal before has ended it
                found.send_signal(number)


def twice_at_once(project, process):
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)


def stopped_well(project, run, process):
    output, _ = process.communicate(timeout=TIMEOUT_S)
    project.wait_for_no_process()
    state = run.state()
    assert state.status == "stopped" and run.failure() is None, output
    assert (run.checkpoints / "latest").read_text().strip() == f"step-{state.step:06d}", output
    return state.step


def test_every_kind_of_stop_saves_the_last_step(project):
    run = Run(project.path / "runs" / "signals")
    reached = 0
    for end in (time_is_over, closed_terminal, service_stopped, twice_at_once):
        command = ["timeout", str(TIMEOUT_S)] if end is time_is_over else []
        process = project.start(*command, "make", "train", **ENDLESS, RUN_NAME=run.name)
        wanted = reached + 3
        wait_until(lambda wanted=wanted: run.state().step >= wanted, process, run)
        end(project, process)
        reached = stopped_well(project, run, process)
        assert reached >= wanted, end


def test_a_service_that_is_stopped_while_its_run_starts_is_stopped_and_not_failed(project):
    run = Run(project.path / "runs" / "early")
    process = project.start("make", "train", **ENDLESS, RUN_NAME=run.name)
    wait_until(lambda: bool(project.running("sft.host.launch.node")), process, run)
    service_stopped(project, process)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    project.wait_for_no_process()
    assert run.state().status == "stopped" and run.failure() is None, output


def test_a_persons_second_ctrl_c_ends_at_once(project):
    run = Run(project.path / "runs" / "twice")
    # A rank that does not move cannot save: only an end at once gets past it.
    process = project.start("make", "train", **ENDLESS, RUN_NAME=run.name)
    wait_until(lambda: run.state().step >= 3, process, run)
    project.running("--local_rank=0")[0].suspend()
    os.killpg(process.pid, signal.SIGINT)
    wait_until(lambda: run.stop_reason() is not None, process, run)
    time.sleep(AGAIN_S)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=TIMEOUT_S)
    project.wait_for_no_process()
    assert run.state().status == "stopped" and not list(run.checkpoints.glob("step-*"))


def test_a_run_goes_on_when_nobody_reads_what_it_prints(project):
    run = Run(project.path / "runs" / "head")
    # An ASCII locale too: what is printed has other characters.
    process = project.start("make", "train", **small(RUN_NAME=run.name, NODES=1), PYTHONIOENCODING="ascii")
    assert process.stdout is not None and process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=TIMEOUT_S) == 0
    assert run.state().status == "finished"
    project.wait_for_no_process()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_setup_that_is_ended_leaves_nothing_at_work(project, tmp_path, number):
    os.mkfifo(tmp_path / "train.jsonl")  # nobody writes into it: preparing goes on for ever
    process = project.start("setup", **small(DATASET=tmp_path))
    deadline = time.monotonic() + TIMEOUT_S
    while not project.running("sft.trainer.prepare"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + number and "Traceback" not in output, output
    project.wait_for_no_process()
