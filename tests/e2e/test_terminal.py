"""What a terminal shows of a run that is at work."""

import json

import pytest

from tests.states import RATES, SENTENCE, STATES

from .screen import run_in_terminal

PLAY = f"""
import json, sys
from sft.host import screen
from sft.host.commands import progress
from sft.run.records import State
console = screen.terminal()
with progress.display(console) as shown:
    for state in json.loads(sys.argv[1]):
        shown.show(State.from_json(state))
console.print({SENTENCE!r})
"""


def play(width, states):
    return run_in_terminal(width, "-c", PLAY, json.dumps(states))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_every_phase_leaves_one_full_bar_with_its_last_numbers(width):
    lines = play(width, STATES)
    bars = [line for line in lines if "━" in line]
    assert [line.split("━")[0].strip() for line in bars] == (
        ["starting", "preparing", "base model", "training", "saving model", "tuned model"]
        if width == 60
        else ["starting the nodes", "preparing data and model", "evaluating the base model", "training",
              "saving the final model", "evaluating the tuned model"]
    )  # fmt: skip
    assert len({line.index("━") for line in bars}) == 1 and all(line.count("━") >= 8 for line in bars)
    assert "200/200" in bars[2] and "200/200" in bars[5]
    assert "250/250" in bars[3] and "loss 0.0234" in bars[3] and "left" not in bars[3]
    assert ("12,346 tokens/s" in bars[3]) is (width == 120)
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_break_between_words(width):
    words = [word for line in play(width, []) for word in line.split()]
    assert words == SENTENCE.split()


@pytest.mark.parametrize("width", [60, 80])
def test_a_run_that_was_stopped_keeps_its_numbers(width):
    end = {"step": 61, "total_steps": 250} | RATES
    training = [{"status": "training"} | end, {"status": "saving"} | end, {"status": "stopped"} | end]
    (line,) = [line for line in play(width, training) if line.startswith("training")]
    assert "61/250" in line and line.count("━") >= 8
