"""What a task prints never ends a run."""

import io
import os

import pytest
from rich.console import Console

from sft.host.screen import Screen


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
