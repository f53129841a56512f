"""Stopped in whatever way, both containers save and end well, and the next `make train` resumes from there."""

from sft.run.directory import Run
from tests.e2e.project import TIMEOUT_S, Project, metrics, small, wait_until

SETTINGS = {"MAX_STEPS": 60}
STEP_DELAY_S = 0.2  # docker takes its time to pass a stop on


def inv_stop(stack):
    asked = stack.inv("stop", "--name", "stopped")
    assert asked.returncode == 0, asked.stdout


def compose_stop(stack):
    stack.docker("compose", "stop")


def sigterm_to_the_worker(stack):
    stack.docker("compose", "kill", "--signal", "SIGTERM", "llm-worker")


def stopped(stack, run, stop):
    """Start or resume a run, stop it three steps later, and return the step that it was saved at."""
    before = run.state().step
    _, process = stack.start_training(**small(RUN_NAME=run.name, **SETTINGS), **stack.delayed(STEP_DELAY_S))
    wait_until(lambda: run.state().status == "training" and run.state().step >= before + 3, process, run)
    stop(stack)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    state = run.state()
    assert process.returncode == 0, output
    assert state.status == "stopped" and before + 3 <= state.step < SETTINGS["MAX_STEPS"]
    assert stack.exit_codes() == [0, 0]
    assert (run.checkpoints / "latest").read_text().strip() == f"step-{state.step:06d}"
    assert (run.checkpoints / f"step-{state.step:06d}" / "manifest.json").is_file()
    return state.step


def test_stopped_in_every_way_it_saves_and_ends_as_if_it_had_not_been_stopped(stack, tmp_path):
    run = Run(stack.path / "runs" / "stopped")
    for stop in (inv_stop, compose_stop, sigterm_to_the_worker):
        step = stopped(stack, run, stop)
    done = stack.inv("train", **small(RUN_NAME=run.name, **SETTINGS))
    assert done.returncode == 0 and f"after step {step}" in done.stdout, done.stdout
    undisturbed = Project(tmp_path).train("undisturbed", **small(**SETTINGS))
    assert metrics(run, "step", "train/loss", "train/lr") == metrics(undisturbed, "step", "train/loss", "train/lr")
    ours, theirs = (found.final / "model.safetensors" for found in (run, undisturbed))
    assert ours.read_bytes() == theirs.read_bytes()
