"""The rank program: `python -m sft.trainer.main --run runs/NAME`, started once per rank by DeepSpeed's launcher."""

from __future__ import annotations

from sft.trainer import process

if __name__ == "__main__":
    process.begin()  # before imports that take seconds, in which a SIGTERM would end the rank at once

import argparse
import json
import os
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from sft.errors import SftError, between_ranks
from sft.run import budget, files
from sft.run.directory import Run
from sft.run.records import Evaluating, Status
from sft.settings.fields import Settings
from sft.steps import Steps
from sft.trainer import distributed, oom
from sft.trainer.data.rows import Rows
from sft.trainer.distributed import World
from sft.trainer.evaluation import evaluate as evaluation
from sft.trainer.loop import train
from sft.trainer.timing import Phases
from sft.trainer.trackers.metrics import Metrics, NoMetrics

POLL_S = 0.05
MESSAGE = 500  # characters of an error; all of it is in the log


def main() -> None:
    """Run the rank; whatever ends it is written to the run directory first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--local_rank", type=int, help="given by the launcher, which sets LOCAL_RANK too")
    run = Run(parser.parse_args().run)
    rank = os.environ["RANK"]
    try:
        settings = budget.held(run, run.settings())
        wait_for_inputs(run)
        world = distributed.start(settings.device, settings.rendezvous_timeout_s)
        status = pipeline(run, settings, world)
        distributed.end()
        if world.is_main:
            run.update_state(status)
    except SftError as error:
        run.fail(str(error))
        sys.exit(error.exit_code)
    except BaseException as error:
        if said := oom.reason(error, run):
            run.fail(f"rank {rank}: {said}")
        else:
            what = f"{type(error).__name__}: {textwrap.shorten(str(error), MESSAGE) or 'no message'}"
            if isinstance(error, RuntimeError) and between_ranks(str(error)):
                # Perhaps only what another rank's error looks like from here: the node program waits for a better one.
                sys.stdout.write(f"rank {rank}: error between ranks: {what}\n")
            else:
                run.fail(f"rank {rank}: {what}")
        raise
    sys.stdout.write(f"rank {rank}: done\n")  # one write, one line: the node program counts these


def wait_for_inputs(run: Run) -> None:
    """Wait for the inputs: the launcher starts the ranks while they are made.

    The node program ends the ranks where making them breaks, or a stop comes before. No rank decides that by itself:
    the others would wait for it.
    """
    while not run.prepared.is_file():
        if process.stop_requested.is_set() and run.stop_reason() is None:
            run.request_stop("a signal to the ranks")
        time.sleep(POLL_S)


def pipeline(run: Run, settings: Settings, world: World) -> Any:
    """Evaluate the base model, train, export and evaluate again, whatever of it is left to do (all ranks).

    Return the status that the run ends with.
    """
    prepared = files.read_json(run.prepared)
    phases = Phases(run, world)
    now = time.time()
    since_start = now - (run.state().attempt_started_at or now)
    before_ranks = max(0.0, since_start - sum(prepared["seconds"].values()))
    phases.add(**{"starting": before_ranks} | prepared["seconds"])
    rows, held_out = (Rows(Path(prepared["data"]) / split) for split in ("train", "validation"))
    metrics: Metrics | NoMetrics = Metrics(run, settings) if world.is_main else NoMetrics()
    status: Status = "finished"
    try:
        if settings.evaluate and "before" not in evaluation.results(run):
            with phases.spending("evaluation before"):
                evaluate(run, settings, Path(prepared["model"]), held_out, world, "before", metrics, step=0)
        if not run.final.exists():
            train(run, settings, Path(prepared["model"]), rows, held_out, phases, metrics, world)
        if settings.evaluate and "after" not in evaluation.results(run):
            with phases.spending("evaluation after"):
                last = Steps.of(settings, len(rows)).total
                evaluate(run, settings, run.final, held_out, world, "after", metrics, step=last)
    except process.Stopped:
        status = "stopped"
    metrics.close()
    return status


def evaluate(
    run: Run,
    settings: Settings,
    path: Path,
    rows: Rows,
    world: World,
    name: Evaluating,
    metrics: Metrics | NoMetrics,
    step: int,
) -> None:
    """Evaluate the model that training begins or ends with, after `step` steps, and say so (all ranks)."""
    if world.is_main:
        run.update_state("evaluating", evaluating=name, answers=0, total_answers=0)
    found = evaluation.evaluate(run, settings, path, rows, world, name)
    metrics.log_evaluation(step, found)
    if world.is_main:
        print(
            f"evaluation {name} training: {json.dumps({k: v for k, v in found.items() if k != 'samples'})}", flush=True
        )


if __name__ == "__main__":
    main()
