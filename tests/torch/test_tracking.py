"""W&B beside a run, with its real service, logged offline: what is logged, and that nothing of it ends a training."""

import json
import time

import psutil
import pytest

from sft import hostfile
from sft.run import lifecycle
from sft.trainer.trackers import wandb_process
from sft.trainer.trackers.trackers import Trackers
from tests.processes import wait_for_end
from tests.settings import decided

PATIENCE_S = 60


def run_in(folder, name="a", **settings):
    settings = {"runs_path": folder, "run_name": name, "wandb_mode": "offline"} | settings
    return lifecycle.create(decided(**settings), hostfile.hostfile(1, 1))


def metrics_of(run, first_step=0):
    metrics = Trackers(run, run.settings())
    metrics.resume(first_step)
    return metrics


def wait_for(found):
    deadline = time.monotonic() + PATIENCE_S
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def service(metrics):
    """Return W&B's own process, once it logs the run."""
    run = metrics.run
    wait_for(lambda: list((run.path / "wandb").glob("offline-run-*/*.wandb")))
    return next(
        child for child in psutil.Process(metrics.others[0].process.pid).children() if "wandb-core" in child.name()
    )


def logged(run):
    """Return everything that W&B has written of a run."""
    return b"".join(path.read_bytes() for path in sorted((run.path / "wandb").glob("offline-run-*/*.wandb")))


def steps(run):
    return [line.step for line in run.read_metrics()]


def test_what_is_logged_reaches_wandb_too_and_no_process_is_left(tmp_path):
    run = run_in(tmp_path)
    metrics = metrics_of(run)
    process = metrics.others[0].process
    for step in range(1, 6):
        metrics.log(step, {"train/loss": step + 0.4321})
    service(metrics)
    metrics.close()
    assert all(f"{step}.4321".encode() in logged(run) for step in range(1, 6))
    assert run.state().wandb is None and not psutil.pid_exists(process.pid)


@pytest.mark.parametrize("victim", ["service", "process"])
def test_wandb_killed_in_the_middle_is_said_once_and_all_steps_are_in_the_metrics(tmp_path, capsys, victim):
    run = run_in(tmp_path)
    metrics = metrics_of(run)
    metrics.log(1, {"train/loss": 1.0})
    core = service(metrics)
    if victim == "service":
        core.kill()
    else:
        metrics.others[0].process.kill()
    step = 1
    while metrics.others[0].process:
        assert step < 20 * PATIENCE_S
        step += 1
        metrics.log(step, {"train/loss": 1.0})
        time.sleep(0.05)
    metrics.log(step + 1, {"train/loss": 1.0})
    metrics.close()
    assert steps(run) == list(range(1, step + 2))
    said = capsys.readouterr().out
    assert said.count("W&B: not logging there (") == 1 and said.strip().endswith(run.state().wandb)
    if victim == "process":
        assert run.state().wandb == "not logging there (its process ended with exit code -9)"


def test_wandb_that_hangs_at_the_end_is_ended(tmp_path, capsys):
    run = run_in(tmp_path)
    metrics = metrics_of(run)
    metrics.log(1, {"train/loss": 1.0})
    core, process = service(metrics), metrics.others[0].process
    core.suspend()
    metrics.log(2, {"train/loss": 1.0})
    metrics.others[0].close(limit_s=2)
    metrics.close()
    said = f"it did not end within 2 s; `wandb sync` uploads what is in {run.path}/wandb"
    assert run.state().wandb == f"not logging there ({said})"
    assert capsys.readouterr().out == f"W&B: not logging there ({said})\n"
    assert process.returncode is not None
    wait_for_end([core])
    assert steps(run) == [1, 2]


def test_wandb_that_cannot_start_is_said(tmp_path):
    run = run_in(tmp_path, wandb_project_name="a/b:c")
    metrics = metrics_of(run)
    wait_for(lambda: metrics.log(1, {"train/loss": 1.0}) or run.state().wandb)
    metrics.close()
    assert run.state().wandb.startswith("not logging there (") and "a/b:c" in run.state().wandb


def test_a_run_is_the_same_in_wandb_after_a_resume_and_another_of_its_name_is_not(tmp_path):
    run, other = run_in(tmp_path / "one"), run_in(tmp_path / "two")
    first = wandb_process.own_id(run)
    assert wandb_process.own_id(run) == first and len(first) == 16
    assert wandb_process.own_id(other) != first
    metrics = metrics_of(run)
    service(metrics)
    metrics.close()
    assert [path.name for path in (run.path / "wandb").glob("offline-run-*/*.wandb")] == [f"run-{first}.wandb"]


@pytest.mark.parametrize(("given", "name"), [("mine", b"mine/evaluation"), ("", b"one/evaluation")])
def test_an_evaluation_has_a_name_of_its_own_in_wandb(tmp_path, given, name):
    """A second run of the trained one's name, without a loss, is taken for a training that broke off."""
    run = run_in(tmp_path, "one", wandb_run_name=given)
    again = lifecycle.evaluate_again(run, run.settings())
    metrics = metrics_of(again)
    service(metrics)
    metrics.close()
    assert name in logged(again)


def test_a_resumed_run_logs_offline_what_is_new(tmp_path):
    run = run_in(tmp_path)
    lines = [{"step": step, "time": 1.0, "train/loss": step + 0.5678} for step in (1, 2, 3)]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = metrics_of(run, first_step=2)
    metrics.log(3, {"train/loss": 3.8765})
    service(metrics)
    metrics.close()
    assert steps(run) == [1, 2, 3]
    assert b"3.8765" in logged(run) and b".5678" not in logged(run)


def test_a_step_that_was_validated_before_the_run_was_killed_is_known(tmp_path):
    run = run_in(tmp_path, wandb_mode="disabled")
    lines = [{"step": 5, "time": 1.0, "train/loss": 1.0}, {"step": 5, "time": 1.0, "val/loss": 1.0}]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert Trackers(run, run.settings()).resume(5)
    assert not Trackers(run, run.settings()).resume(4)


def test_lines_that_cannot_be_read_are_dropped_and_said_at_the_terminal(tmp_path):
    run = run_in(tmp_path, wandb_mode="disabled")
    run.metrics.write_text('{"step": 1}\n\0\0\0\n{"step": 2}\n{"step": 3, "tr')
    metrics_of(run, first_step=2).close()
    assert run.metrics.read_text() == '{"step": 1}\n{"step": 2}\n'
    warning = f"{run.metrics}: 1 of 3 lines cannot be read (the first is line 2); they are left out"
    assert run.state().warnings == [warning]
    metrics_of(run, first_step=2).close()
    assert run.state().warnings == [warning]  # said once


def test_the_evaluation_is_logged_once_and_again_if_it_found_something_else(tmp_path):
    run = run_in(tmp_path)
    for exact_match in (0.25, 0.25, 0.5):
        metrics = Trackers(run, run.settings())
        metrics.log_once(8, {"val/loss": 2.5, "eval/exact_match": exact_match})
        metrics.close()
    found = [(line.step, line.values["val/loss"], line.values["eval/exact_match"]) for line in run.read_metrics()]
    assert found == [(8, 2.5, 0.25), (8, 2.5, 0.5)]
    assert b"eval/exact_match" in logged(run)
