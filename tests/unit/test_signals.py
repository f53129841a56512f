"""What signals mean, whenever and however many they are."""

import signal

import pytest
from rich.console import Console

from sft import hostfile
from sft.host.commands import watch
from sft.host.launch import signals
from sft.host.launch.signals import StopRequest
from sft.run import lifecycle
from tests.settings import decided


@pytest.mark.parametrize(
    ("sent", "stop", "at_once"),
    [
        ([(0, "SIGTERM")], "SIGTERM", False),
        ([(0, "SIGTERM"), (0.001, "SIGTERM"), (60, "SIGTERM")], "SIGTERM", False),
        ([(0, "SIGTERM"), (0, "SIGHUP"), (9, "SIGHUP")], "SIGTERM", False),
        ([(0, "SIGINT"), (0.001, "SIGINT")], "SIGINT", False),
        ([(0, "SIGINT"), (0.001, "SIGINT"), (2, "SIGINT")], "SIGINT", True),
        ([(0, "SIGTERM"), (30, "SIGINT")], "SIGTERM", False),
        ([(0, "SIGTERM"), (30, "SIGINT"), (32, "SIGINT")], "SIGTERM", True),
        ([(0, "SIGQUIT")], "SIGQUIT", True),
    ],
)
def test_only_a_persons_second_ctrl_c_and_sigquit_mean_at_once(monkeypatch, sent, stop, at_once):
    request = StopRequest()
    for seconds, name in sent:
        monkeypatch.setattr(signals.time, "monotonic", lambda seconds=seconds: 1000.0 + seconds)
        request.note(signal.Signals[name])
    assert (request.stop, request.at_once) == (stop, at_once)


def test_a_task_without_a_run_is_ended_and_cleans_up():
    cleaned = []
    with pytest.raises(signals.Interrupted) as interrupted, signals.raising():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):  # they come several at a time
                signal.raise_signal(number)
            cleaned.append(True)
    assert cleaned and (interrupted.value.name, interrupted.value.exit_code) == ("SIGTERM", 143)


def test_with_nohup_the_end_of_a_terminal_means_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.noted() as request:
            signal.raise_signal(signal.SIGHUP)
            assert request.stop is None
            signal.raise_signal(signal.SIGTERM)
            assert request.stop == "SIGTERM"
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def run(tmp_path):
    return lifecycle.create(decided(runs_path=tmp_path, run_name="a"), hostfile.hostfile(1, 1))


def test_a_signal_that_comes_before_there_are_nodes_stops_the_run_there(run):
    heard = StopRequest()
    heard.note(signal.SIGTERM)

    def start(_run):
        raise AssertionError("no node is to be started")

    watched = watch.watch(run, start, Console(), heard)
    assert run.state().status == "stopped" and run.stop_reason() == "SIGTERM" and not watched.broke


class StoppingNodes:
    """Nodes that have heard of several signals by the time of the first look at them, and end when asked to stop."""

    def __init__(self, run, heard):
        self.run = run
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
            heard.note(number)

    def codes(self):
        if self.run.stop_reason() is None:
            return [None]
        self.run.update_state("stopped")
        return [0]

    def end_now(self):
        raise AssertionError("nothing has asked for that")


def test_several_signals_between_two_looks_are_a_stop(run):
    heard = StopRequest()
    watch.watch(run, lambda run: StoppingNodes(run, heard), Console(), heard)
    assert run.state().status == "stopped" and run.stop_reason() == "SIGTERM"
