"""A run that is stopped goes on as if it never had been."""

import json
import os
import signal

import pytest

from sft.run.directory import Run

from .project import TIMEOUT_S, Hold, metrics, small, wait_until

STEPS = {"MAX_STEPS": 20, "EVAL_STEPS": 8}
UNENDING = {"NODES": 1, "MAX_STEPS": 0, "MAX_EPOCHS": 1000}
NAMES = ("step", "train/loss", "train/grad_norm", "train/lr", "val/loss")


@pytest.fixture(scope="module")
def undisturbed(project):
    return project.train("undisturbed", **STEPS)


def test_stopped_and_resumed_equals_undisturbed(project, undisturbed, tmp_path):
    run = Run(project.path / "runs" / "stopped")
    hold = Hold(tmp_path, step=6)
    process = project.start("train", **small(RUN_NAME="stopped", **STEPS, **hold.settings))
    hold.wait(process, run)
    asked = hold.stop(project, process, run)
    state = run.state()
    assert state.status == "stopped" and 5 <= state.step < 20
    assert (run.checkpoints / "latest").read_text().strip() == f"step-{state.step:06d}"
    # At once, with the settings of its own, as the hint stands there: it waits for what is left of the attempt.
    resumed = project.inv("make", "resume", "NAME=stopped")
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    saved = f"saved as step-{state.step:06d}; `make resume NAME=stopped` continues from there"
    for said in (output, asked):
        assert f"stopped after step {state.step} of 20, {saved}" in said

    assert resumed.returncode == 0, resumed.stdout
    assert f"after step {state.step}" in resumed.stdout
    assert run.state().status == "finished"
    assert metrics(run, *NAMES) == metrics(undisturbed, *NAMES)
    ours, theirs = (path.final / "model.safetensors" for path in (run, undisturbed))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.fixture(scope="module")
def interrupted(project):
    """A run that a Ctrl-C has stopped after some steps."""
    run = Run(project.path / "runs" / "interrupted")
    process = project.start("train", **small(RUN_NAME=run.name, **UNENDING))
    wait_until(lambda: run.state().step >= 3, process, run)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    return run


def test_ctrl_c_saves(interrupted):
    run, stopped = interrupted, interrupted.state()
    assert stopped.status == "stopped" and run.stop_reason() == "SIGINT"
    assert (run.checkpoints / f"step-{stopped.step:06d}" / "manifest.json").is_file()


def test_a_stop_while_the_inputs_are_made_ends_the_ranks_that_wait_for_them(project, tmp_path):
    os.mkfifo(tmp_path / "train.jsonl")  # nobody writes into it: preparing goes on for ever
    run = Run(project.path / "runs" / "waiting")
    process = project.start("train", **small(RUN_NAME="waiting", DATASET=tmp_path))
    wait_until(lambda: len(project.running("--local_rank=0")) == 2, process, run)
    assert run.state().status == "preparing"
    asked = project.inv("stop", "--name", "waiting")
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert (asked.returncode, process.returncode) == (0, 0), asked.stdout + output
    assert run.state().status == "stopped" and run.failure() is None
    assert "stopped before its first step; `make resume NAME=waiting` starts it again" in output
    assert not run.prepared.exists()
    project.wait_for_no_process()


def test_a_run_goes_on_with_no_other_rows_than_its_own(project, tmp_path):
    rows = tmp_path / "train.jsonl"
    lines = [json.dumps({"question": f"{i} + 1?", "answer": f"{i + 1}"}) for i in range(64)]
    rows.write_text("\n".join(lines) + "\n")
    run = Run(project.path / "runs" / "edited")
    process = project.start("train", **small(RUN_NAME=run.name, DATASET=rows, **UNENDING))
    wait_until(lambda: run.state().step >= 3, process, run)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    before = json.loads(run.environment.read_text())
    rows.write_text("\n".join(lines[1:]) + "\n")
    refused = project.inv("make", "resume", f"NAME={run.name}")
    assert refused.returncode == 2 and "Traceback" not in refused.stdout
    assert "its rows are not those that the run began with (train.jsonl has changed); restore" in refused.stdout
    assert json.loads(run.environment.read_text())["inputs"] == before["inputs"]
    rows.write_text("\n".join(lines) + "\n")
    step = run.saved_step()
    resumed = project.inv("make", "resume", f"NAME={run.name}", "MAX_HOURS=0.002")
    assert resumed.returncode == 0 and f"resuming runs/{run.name} after step {step}" in resumed.stdout
    assert run.state().status == "stopped" and run.state().step >= step


def test_the_time_limit_stops_a_run_and_says_so(project):
    run = Run(project.path / "runs" / "hours")
    done = project.inv("train", **small(RUN_NAME="hours", **UNENDING, MAX_HOURS=0.003))
    assert done.returncode == 0, done.stdout
    assert run.state().status == "stopped"
    assert run.stop_reason() == "MAX_HOURS=0.003 have passed" and "reason: MAX_HOURS=0.003 have passed" in done.stdout
    project.wait_for_no_process()


def test_other_settings_are_refused(project, interrupted):
    refused = project.inv("train", **small(RUN_NAME=interrupted.name, **UNENDING, LEARNING_RATE=0.5))
    assert refused.returncode == 2
    line = "LEARNING_RATE=0.5: the unfinished run interrupted has 0.001; set it to 0.001 to resume, or FRESH=1"
    assert line in refused.stdout
    assert "Traceback" not in refused.stdout
