"""What a task prints never ends a run."""

import io
import os

import pytest
from rich.console import Console

from sft.host.screen import Screen, labelled, terminal


@pytest.fixture
def pipe():
    read, write = os.pipe()
    stream = os.fdopen(write, "w", encoding="utf-8")
    yield read, stream
    stream.close()


def test_what_an_encoding_cannot_hold_is_a_question_mark():
    raw = io.BytesIO()
    console = Console(file=Screen(io.TextIOWrapper(raw, encoding="ascii", errors="strict")))
    console.print("loss 0.5 … 数")
    assert raw.getvalue() == b"loss 0.5 ? ?\n"


def test_output_whose_reader_is_gone_is_dropped(pipe):
    read, stream = pipe
    console = Console(file=Screen(stream))
    os.close(read)
    for number in range(3):
        console.print(f"line {number}")
    stream.flush()  # as Python does at its end


def test_a_terminal_that_does_not_know_its_width_is_written_to_all_the_same(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "0")
    terminal().print("loss 0.5")
    assert capsys.readouterr().out == "loss 0.5\n"


def test_a_line_that_does_not_fit_goes_on_below_its_text_in_a_terminal_only():
    for is_terminal, lines in (
        (True, ["     looks: one two", "            three"]),
        (False, ["     looks: one two three"]),
    ):
        out = io.StringIO()
        console = Console(file=out, width=20, force_terminal=is_terminal, color_system=None)
        console.soft_wrap = not is_terminal
        labelled(console, "looks", "one two three")
        assert out.getvalue().splitlines() == lines
