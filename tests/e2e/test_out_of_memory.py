"""A rank that runs out of memory: the run continues with smaller micro-steps and the same result, or names the row."""

import json
from pathlib import Path

import pytest

from sft.run import budget
from sft.run.directory import Run

from .project import metrics, small

CARD = str(Path(__file__).with_name("small_card"))
STEPS = {"GLOBAL_BATCH_SIZE": 64, "MAX_STEPS": 8, "SAVE_STEPS": 2}


def on_small_card(*limits):
    """Return the environment in which ranks have too little memory, as small_card/sitecustomize.py says."""
    return {"PYTHONPATH": CARD, "SMALL_CARD": json.dumps(limits)}


def test_out_of_memory_anywhere_in_a_step_the_run_goes_on_with_the_same_curve(project):
    whole = project.train("memory-whole", NODES=1, **STEPS)
    limits = (
        {"rank": 1, "where": "forward", "from_step": 3, "tokens": 1000},
        {"rank": 0, "where": "backward", "from_step": 6, "tokens": 500},
        {"rank": 1, "where": "optimizer", "from_step": 8, "tokens": 200},
    )
    run = Run(project.path / "runs" / "memory-small")
    settings = small(RUN_NAME=run.name, **STEPS, **on_small_card(*limits))
    done = project.inv("train", **settings)
    assert done.returncode == 0, done.stdout + "".join(path.read_text() for path in run.log_files())
    said = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    tokens = [cut.failed_size for cut in budget.cuts(run)]
    wanted = [
        f"warning: out of memory in step {step} ({where}, rank {rank}) at {tried:,} tokens a micro-step: "
        f"resuming from checkpoint step-{saved:06} with {now}"
        for step, where, rank, tried, saved, now in (
            (3, "forward", 1, tokens[0], 2, 768),
            (6, "backward", 0, tokens[1], 4, 256),
            (8, "optimizer", 1, tokens[2], 6, 36),
        )
    ]
    assert said == wanted and tokens[0] > 1000 and 768 >= tokens[1] > 500 and 256 >= tokens[2] > 200
    assert f"memory: {budget.in_words(budget.cuts(run)[-1])}; continued with 36" in done.stdout  # the report at the end
    names = ("step", "train/loss", "train/grad_norm", "train/target_tokens")
    found = metrics(run, *names)
    assert [line[0] for line in found] == list(range(1, STEPS["MAX_STEPS"] + 1))
    for seen, wanted_line in zip(found, metrics(whole, *names), strict=True):
        assert seen == pytest.approx(wanted_line, rel=2e-5)
    project.wait_for_no_process()


def test_a_row_that_does_not_fit_alone_is_named_before_the_first_step(project, tmp_path):
    rows = [{"question": f"{i} + 1?", "answer": f"{i + 1}"} for i in range(16)]
    rows[11]["question"] = "1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 9?"
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "validation.jsonl").write_text(json.dumps(rows[0]) + "\n")
    run = Run(project.path / "runs" / "memory-row")
    settings = small(RUN_NAME=run.name, DATASET=tmp_path, NODES=1, PACKING=0, BATCH_SIZE=1, RESTARTS=2, MAX_STEPS=4)
    done = project.inv(
        "train", **settings, **on_small_card({"rank": 0, "where": "backward", "from_step": 1, "tokens": 1})
    )
    assert done.returncode == 1, done.stdout
    error = run.state().error
    longest = json.loads(run.prepared.read_text())["train"]["longest"]
    assert error.startswith("out of memory in the dry run before step 1 (backward, rank 0) at 1 row a micro-step, and ")
    assert f"the longest row, {tmp_path / 'train.jsonl'}:12 with {longest} tokens, has to fit alone; use " in error
    assert "MAX_LENGTH" in error and "GRADIENT_CHECKPOINTING=1" in error and "zero3_offload" in error
    assert "starting again" not in done.stdout and not list(run.read_metrics())  # it would not fit a second time
    assert done.stdout.strip().splitlines()[-1] == f"runs/{run.name}: failed: {error}"
    project.wait_for_no_process()
