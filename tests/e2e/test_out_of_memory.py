"""A rank that runs out of memory: the run goes on with smaller micro-steps and the same result."""

import json
from pathlib import Path

import pytest

from sft.run import Run

from .project import metrics, small

CARD = str(Path(__file__).with_name("small_card"))
FOUR_RANKS = {"NODES": 2, "GPUS_PER_NODE": 2, "GLOBAL_BATCH_SIZE": 128, "MAX_STEPS": 8, "SAVE_STEPS": 2}


def on_small_card(*limits):
    """Return the environment in which the ranks have too little memory there."""
    return {"PYTHONPATH": CARD, "SMALL_CARD": json.dumps(limits)}


def test_out_of_memory_anywhere_in_a_step_the_run_goes_on_with_the_same_curve(project):
    whole = project.train("memory-whole", **FOUR_RANKS)
    limits = (
        {"rank": 2, "where": "forward", "from_step": 3, "tokens": 1000},
        {"rank": 1, "where": "backward", "from_step": 6, "tokens": 500},
        {"rank": 3, "where": "optimizer", "from_step": 8, "tokens": 200},
    )
    run = Run(project.path / "runs" / "memory-small")
    done = project.inv("train", **small(RUN_NAME=run.name, **FOUR_RANKS, **on_small_card(*limits)))
    assert done.returncode == 0, done.stdout + "".join(path.read_text() for path in run.log_files())
    print(done.stdout)
    names = ("step", "train/loss", "train/grad_norm", "train/target_tokens")
    found = metrics(run, *names)
    assert [line[0] for line in found] == list(range(1, 9))
    for seen, wanted in zip(found, metrics(whole, *names), strict=True):
        assert seen == pytest.approx(wanted, rel=2e-5)
