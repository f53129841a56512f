"""What a terminal and a log show of a run that is at work."""

import io

import pytest
from rich.console import Console

from sft.host import screen
from sft.host.commands import progress
from sft.run.records import State
from tests.states import SENTENCE, STATES


@pytest.mark.parametrize("width", [60, 80, 100, 120])
@pytest.mark.parametrize("total", [250, 1_000, 100_000])
@pytest.mark.parametrize("left", ["0:05 left", "11:22:33 left"])
def test_what_has_no_room_is_left_out_and_the_bar_stays(width, total, left):
    def shown(done, loss):
        console = Console(file=io.StringIO(), width=width)
        phase = progress.Phase("training", "training", "training", done, total, loss, "1,234 tokens/s", left)
        console.print(progress.bar_line(phase, width, "1:00"))
        (line,) = console.file.getvalue().splitlines()
        return line.rstrip()

    early, late = shown(total // 2, "loss 10.1234"), shown(total, "loss 0.0001")
    assert late.count("━") >= 8 and len(late) <= width
    assert late.index("━") == early.index("━") and late.index("loss") == early.index("loss")
    assert ("tokens/s" in late) >= ("1:00" in late.replace(left, ""))
    assert (left in late) >= ("tokens/s" in late) and f"{total:,}/{total:,}" in late


def test_a_log_has_plain_lines_that_are_not_wrapped(monkeypatch):
    text = io.StringIO()
    monkeypatch.setattr("sys.stdout", text)
    console = screen.terminal()
    with progress.display(console) as shown:
        for state in STATES:
            shown.show(State.from_json(state))
    console.print(SENTENCE)
    *lines, last = text.getvalue().splitlines()
    assert last == SENTENCE and "\x1b" not in text.getvalue() and "━" not in text.getvalue()
    assert [line for line in lines if line.startswith("training")] == [
        "training  0/250",
        "training  250/250  loss 0.0234  12,346 tokens/s  in 0:00",
    ]
    assert lines[-2:] == ["evaluating the tuned model  200/200  in 0:00", "finished"]
