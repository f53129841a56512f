"""The rank program: `python -m sft.trainer.main --run runs/NAME`, started once per rank by DeepSpeed's launcher."""

from __future__ import annotations

import gc

from sft.trainer import process

if __name__ == "__main__":
    process.begin()  # before imports that take seconds, in which a SIGTERM would end the rank at once
    gc.disable()  # until `main`: in five seconds of imports it takes one, and frees nothing

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Literal

from sft.errors import SftError
from sft.failures import MAY_FOLLOW
from sft.run import budget, typed_json
from sft.run.directory import Run
from sft.run.records import Failure, Moment, Prepared, RankEnd
from sft.settings.stages import Effective
from sft.steps import Steps
from sft.trainer import distributed
from sft.trainer.data.mixed_rows import rows_in
from sft.trainer.data.rows import Rows
from sft.trainer.distributed import World
from sft.trainer.evaluation.evaluate import evaluate_model
from sft.trainer.failure import failure_of
from sft.trainer.loop import train
from sft.trainer.report import Reporter

POLL_S = 0.05
LOOKS_PER_S = 1000  # of all ranks together at most: they may share one NFS server


def main() -> None:
    """Run this rank. If it breaks, the reason is written to the run directory first."""
    gc.freeze()  # what the libraries have made stays: no collection between steps has to look at it again
    gc.enable()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--local_rank", type=int, help="given by the launcher, which sets LOCAL_RANK too")
    run, rank = Run(parser.parse_args().run), int(os.environ["RANK"])
    try:
        settings = budget.effective(run, run.settings())
        wait_for_inputs(run)
        world = distributed.start(settings.device, settings.rendezvous_timeout_s)
        status = evaluate_and_train(run, settings, world)
        distributed.end()
        if world.is_main:
            run.update_state(status)
        run.note_end(rank, RankEnd(status=status))
    except BaseException as error:
        note_failure(run, rank, failure_of(error, run, rank))
        if isinstance(error, SftError):
            sys.exit(error.exit_code)
        raise
    sys.stdout.write(f"rank {rank}: done\n")  # in one write: the lines of several ranks do not mix


def note_failure(run: Run, rank: int, failure: Failure) -> None:
    """Write what ended this rank to the run directory, also as the run's failure if it is the first.

    If it may only follow from another rank's failure, the node program first waits for a better reason.
    """
    if failure.kind not in MAY_FOLLOW:
        run.fail(failure)
    with contextlib.suppress(OSError):  # the node program sees that the process has ended, and its exit code
        run.note_end(rank, RankEnd(status="failed", failure=failure))


def wait_for_inputs(run: Run) -> None:
    """Wait until the first node has prepared the data and the base model: the launcher starts the ranks meanwhile.

    If preparing fails, or a stop comes first, the node program ends the ranks. No rank may leave by itself: the others
    would wait for it.
    """
    while not run.prepared.is_file():
        if process.stop_requested.is_set() and run.stop_reason() is None:
            run.request_stop("a signal to the ranks")
        time.sleep(max(POLL_S, int(os.environ.get("WORLD_SIZE", 1)) / LOOKS_PER_S))


def evaluate_and_train(run: Run, settings: Effective, world: World) -> Literal["finished", "stopped"]:
    """Evaluate the base model, train, export, and evaluate again (all ranks). Return the status that the run ends with.

    What an earlier attempt has completed is skipped.
    """
    reporter = Reporter(run, settings, world)
    prepared = typed_json.read(run.prepared, Prepared)
    now = time.time()
    since_start = now - (run.state().attempt_started_at or now)
    before_ranks = max(0.0, since_start - sum(prepared.seconds.values()))
    reporter.add_seconds({"starting": before_ranks} | prepared.seconds)
    rows, validation_rows = (rows_in(Path(prepared.data) / split) for split in ("train", "validation"))
    status: Literal["finished", "stopped"] = "finished"
    found = run.results()
    is_evaluated, is_trained, is_done = distributed.of_first(
        (found.before is not None, run.final.exists(), found.after is not None), world
    )
    try:
        if settings.evaluate and not is_evaluated:
            evaluate(run, settings, prepared, Path(prepared.model), validation_rows, "before", 0, reporter, world)
        if not is_trained:
            train(run, settings, prepared, rows, validation_rows, reporter, world)
        if settings.evaluate and not is_done:
            last_step = Steps.of(settings, len(rows)).total
            evaluate(run, settings, prepared, run.final, validation_rows, "after", last_step, reporter, world)
    except process.Stopped:
        status = "stopped"
    reporter.close()
    return status


def evaluate(
    run: Run,
    settings: Effective,
    prepared: Prepared,
    model: Path,
    rows: Rows,
    moment: Moment,
    step: int,
    reporter: Reporter,
    world: World,
) -> None:
    """Evaluate the model before or after training, the one after `step` steps (all ranks)."""
    with reporter.phase(f"evaluation {moment}"):
        reporter.begin_evaluation(moment)
        found = evaluate_model(run, settings, model, moment, prepared, rows, reporter, world)
        reporter.results(moment, step, found)


if __name__ == "__main__":
    main()
