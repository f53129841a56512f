"""What breaks one node ends both within a minute, with the reason; with RESTARTS they begin again and finish."""

import json
import os
import signal

import psutil
import pytest

from tests.e2e.project import small, wait_until

from .stack import wait_for

WITHIN_S = 60


def kill_a_rank(stack):
    os.kill(stack.pid("llm-worker", "sft.trainer.main", "--local_rank=0"), signal.SIGKILL)


def kill_a_launcher(stack):
    os.kill(stack.pid("llm-worker", "sft.host.launch.deepspeed_launcher"), signal.SIGKILL)


def kill_the_worker(stack):
    stack.docker("compose", "kill", "--signal", "SIGKILL", "llm-worker")


def cut_the_network(stack):
    stack.docker("network", "disconnect", f"{stack.name}_nodes", stack.container("llm-worker"))


HARM = {
    kill_a_rank: "node 1: rank 1 was killed by signal 9",
    kill_a_launcher: "node 1: the launcher",
    cut_the_network: "lost node",
}


def start(stack, name, **settings):
    run, process = stack.start_training(**small(RUN_NAME=name, SAVE_STEPS=3, **settings))
    wait_until(lambda: run.state().step >= 5 and run.saved_step() is not None, process, run)
    return run, process


def checkpoint_is_whole(run):
    folder = run.checkpoints / (run.checkpoints / "latest").read_text().strip()
    files = json.loads((folder / "manifest.json").read_text())["files"]
    return files and all((folder / name).stat().st_size == entry["bytes"] for name, entry in files.items())


def fails(stack, run, process, reason):
    """Check that a run ends everywhere within a minute, and says why."""
    output, _ = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 1, output
    assert run.state().status == "failed" and reason in run.state().error
    assert output.strip().splitlines()[-1] == f"runs/{run.name}: failed: {run.state().error}"
    assert len(stack.exit_codes()) == 2
    assert checkpoint_is_whole(run) and not run.final.exists()
    stack.wait_for_no_process()


@pytest.mark.parametrize("harm", [kill_a_rank, kill_a_launcher], ids=lambda harm: harm.__name__)
def test_it_fails_with_the_reason(stack, harm):
    run, process = start(stack, harm.__name__, MAX_STEPS=0, MAX_EPOCHS=1000)
    harm(stack)
    fails(stack, run, process, HARM[harm])


def test_an_engine_that_is_started_anew_while_its_containers_stay_ends_nothing(stack):
    """As an update of docker does it where `live-restore` is on: what waited for the containers is sent away."""
    run, process = start(stack, "live-restore", MAX_STEPS=40, **stack.delayed(0.2))
    waits = [one for one in psutil.Process(process.pid).children(recursive=True) if one.cmdline()[1:2] == ["wait"]]
    assert len(waits) == 2
    for wait in waits:
        wait.kill()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and run.state().status == "finished" and run.state().step == 40, output
    assert stack.exit_codes() == [0, 0]


# What ends a container or parts it from the other; tests/e2e/test_failure.py kills a rank and restarts without them.
def test_with_restarts_it_finishes(stack):
    run, process = start(stack, "finished", MAX_STEPS=40, RESTARTS=1, **stack.delayed(0.5))
    cut_the_network(stack)
    wait_for(lambda: run.state().attempt == 2, WITHIN_S)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    state = run.state()
    assert state.status == "finished" and state.step == 40
    assert len(state.earlier_errors) == 1 and HARM[cut_the_network] in state.earlier_errors[0]
    assert "(1 of RESTARTS=1)" in output and "starting again from checkpoint step-" in output
    assert stack.exit_codes() == [0, 0]


def test_after_the_last_restart_it_fails(stack):
    run, process = start(stack, "killed", MAX_STEPS=0, MAX_EPOCHS=1000, RESTARTS=1, **stack.delayed(0.1))
    kill_the_worker(stack)
    wait_for(lambda: run.state().attempt == 2, WITHIN_S)
    wait_until(lambda: run.state().status == "training", process, run)
    # Docker may say how it ended before or after its connection is gone.
    either = ("node 1: its program was killed by signal 9", "lost node 1")
    assert any(reason in run.state().earlier_errors[0] for reason in either)
    cut_the_network(stack)
    fails(stack, run, process, HARM[cut_the_network])


def test_what_would_only_come_back_is_not_started_again(stack):
    """Rows longer than MAX_LENGTH: only the run finds them."""
    row = json.dumps({"question": "1" * 40, "answer": "2"}) + "\n"
    stack.write("data/long.jsonl", row * 3)
    settings = {"DATASET": "data/long.jsonl", "MAX_LENGTH": 32, "LONG_ROWS": "refuse", "RESTARTS": 3}
    done = stack.inv("train", **small(RUN_NAME="long", **settings))
    assert done.returncode == 2
    assert "data/long.jsonl:2: its " in done.stdout and "more than MAX_LENGTH=32" in done.stdout, done.stdout
    assert "of RESTARTS" not in done.stdout and not (stack.path / "runs" / "long").exists()
