"""A run is at work from the moment on that a program starts it, also before its nodes and between two attempts."""

import io
import threading
import time

import pytest
from rich.console import Console

from sft import hostfile
from sft.errors import UserError
from sft.host.commands import ending, logs, stop
from sft.host.commands.metrics_reader import Metrics
from sft.host.commands.snapshot import Snapshot
from sft.run import lifecycle
from sft.run.directory import Run
from tests.settings import decided

TIMEOUT_S = 60


@pytest.fixture
def run(tmp_path):
    return lifecycle.create(decided(runs_path=tmp_path, run_name="a"), hostfile.hostfile(1, 1))


@pytest.fixture
def beside():
    """Return what runs a function in a thread, whose end is waited for."""
    threads = []

    def start(target):
        threads.append(threading.Thread(target=target, daemon=True))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()


def wait_until(true):
    deadline = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_that_is_being_started_is_stopped_before_its_nodes_are_there(run, beside, tmp_path):
    other = lifecycle.create(decided(runs_path=tmp_path, run_name="b"), hostfile.hostfile(1, 1))
    claim, said = run.claim(), io.StringIO()

    def heed():
        wait_until(lambda: run.stop_reason() == ending.BY_USER)
        run.update_state("stopped")

    beside(heed)
    with other.lock():
        assert stop.run_to_stop(run) == run  # and not the only one with a node
        stop.stop(run, Console(file=said, width=200))
        assert other.stop_reason() is None
    assert "stopped before its first step; `make resume NAME=a" in said.getvalue()
    # What started the run prints its own report, and is not another run.
    assert "a is still at work" not in said.getvalue() and "b is still at work" in said.getvalue()
    claim.close()


def test_a_run_that_starts_again_after_a_failure_is_stopped_in_its_next_attempt(run, beside):
    claim, said = run.claim(), io.StringIO()
    run.update_state("failed", error="a rank broke")

    def start_again():
        lifecycle.reopen(run, run.settings(), again=True)
        wait_until(lambda: run.stop_reason() == ending.BY_USER)
        run.update_state("stopped")
        claim.close()

    beside(start_again)
    stop.stop(run, Console(file=said, width=200))
    assert run.state().status == "stopped" and run.state().attempt == 2, said.getvalue()


def test_a_request_to_stop_that_comes_between_two_attempts_is_for_the_next_one(run):
    run.update_state("failed", error="a rank broke")
    run.request_stop(ending.BY_USER)
    lifecycle.reopen(run, run.settings(), again=True)
    assert run.stop_reason() == ending.BY_USER
    lifecycle.reopen(run, run.settings())  # as `make resume` does
    assert run.stop_reason() is None


def test_what_has_ended_and_is_still_held_is_not_stopped_a_second_time(run, beside):
    claim = run.claim()
    run.update_state("stopped")
    beside(claim.close)
    with pytest.raises(UserError, match=r"is not running \(stopped\); there is nothing to stop"):
        stop.stop(run, Console(file=io.StringIO()))
    assert run.stop_reason() is None


def test_a_run_whose_programs_were_killed_while_it_was_stopped_is_said_to_be_interrupted(run, beside):
    run.update_state("training", step=3)
    lock, said = run.lock(), io.StringIO()

    def kill():
        wait_until(lambda: run.stop_reason() == ending.BY_USER)
        lock.close()

    beside(kill)
    stop.stop(run, Console(file=said, width=200))
    assert "it was interrupted while training; `make resume NAME=a" in said.getvalue()


def test_who_looks_between_two_attempts_goes_on_looking(run, beside, capsys):
    log = run.logs / "node-0.log"
    log.write_text("of the first attempt\n")
    claim = run.claim()
    run.update_state("failed", error="a rank broke")
    assert Snapshot.of(run, Metrics()).running

    def go_on():
        with log.open("a") as file:
            file.write("of the second attempt\n")
        wait_until(lambda: "second" in said.getvalue())
        claim.close()

    said = io.StringIO()
    beside(go_on)
    logs.logs(run, Console(file=said, width=200), follow=True, lines=0)
    assert said.getvalue().splitlines() == ["node-0 | of the first attempt", "node-0 | of the second attempt"]


def test_a_run_that_is_removed_while_it_is_waited_for_is_said_to_be_gone(run, monkeypatch):
    monkeypatch.setattr(Run, "wait_until_free", lambda self: lifecycle.discard(self, None))
    with pytest.raises(UserError, match="a: is gone: another program has removed or renamed it; start again"):
        run.claim()
