"""A trial on a GPU that refuses, crashes or hangs says so, and the run goes on."""

import os
import signal
import time

import pytest

from sft.errors import SettingsError
from sft.run.records import Tried
from sft.trainer.model import liger
from sft.trainer.trial import apart


def refuse():
    raise SettingsError(["MODEL_NAME=x: sees the tokens that it has to predict; use another model"])


def test_what_it_finds_and_what_it_refuses_arrives():
    assert apart.tried(lambda: Tried(copy="a copy", packing=False)) == Tried(copy="a copy", packing=False)
    with pytest.raises(SettingsError, match="MODEL_NAME=x: sees the tokens"):
        apart.tried(refuse)


@pytest.mark.parametrize(
    ("attempt", "ended"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was ended by SIGKILL"),
        (lambda: os._exit(3), "ended with exit code 3"),
        (lambda: time.sleep(600), "took more than 0 s"),
    ],
)
def test_one_that_crashes_or_hangs_leaves_out_the_kernels(monkeypatch, attempt, ended):
    if "took" in ended:
        monkeypatch.setattr(apart, "LIMIT_S", 0.1)
    found = apart.tried(attempt)
    assert found.without_kernels == list(liger.KERNELS)
    assert found.left_out == [f"its trial {ended}: training without Liger's kernels"]
