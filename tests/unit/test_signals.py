"""What signals mean, whenever and however many they are."""

import signal
import subprocess
import sys

import pytest

from sft.host import signals
from sft.host.signals import Asked

# A program that takes its time to start, and then says what its signals have asked for.
PROGRAM = """
import sys, time
print("up", flush=True)
sys.stdin.readline()
from sft.host.launch import Signals
heard = Signals()
print(heard.asked.stop, heard.end_now)
"""


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
    asked = Asked()
    for seconds, name in sent:
        monkeypatch.setattr(signals.time, "monotonic", lambda seconds=seconds: 1000.0 + seconds)
        asked.note(signal.Signals[name])
    assert (asked.stop, asked.at_once) == (stop, at_once)


@pytest.mark.parametrize(("number", "said"), [(signal.SIGTERM, "SIGTERM False"), (signal.SIGQUIT, "SIGQUIT True")])
def test_a_signal_that_comes_before_a_node_can_understand_it_is_not_lost(number, said):
    with signals.held():
        node = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    assert node.stdout is not None and node.stdin is not None
    assert node.stdout.readline() == "up\n"
    node.send_signal(number)
    output, _ = node.communicate("go\n", timeout=60)
    assert (node.returncode, output.strip()) == (0, said)


def test_a_task_without_a_run_is_ended_and_cleans_up():
    cleaned = []
    with pytest.raises(signals.Interrupted) as interrupted, signals.handled(signals.raise_interrupted):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            cleaned.append(True)
    assert cleaned and (interrupted.value.name, interrupted.value.exit_code) == ("SIGTERM", 143)


def test_with_nohup_the_end_of_a_terminal_means_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.noted() as asked:
            signal.raise_signal(signal.SIGHUP)
            assert asked.stop is None
            signal.raise_signal(signal.SIGTERM)
            assert asked.stop == "SIGTERM"
    finally:
        signal.signal(signal.SIGHUP, before)
