"""Steps with a save every ten steps against steps without, on this CPU: `python -m benchmarks.saves` prints the ratio.

Both take turns on the same engine of two ranks, so that other load on the machine affects both. At the end of a turn,
the wait for a save that is still being written is counted.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ |= {"DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false", "GLOO_SOCKET_IFNAME": "lo"}
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks import cpu, steps, work
from sft import hostfile
from sft.run import lifecycle
from sft.run.directory import Run
from sft.settings import deepspeed
from sft.settings.stages import Effective, without_plan
from sft.trainer import batching, distributed, fast_paths, loop
from sft.trainer.checkpoint import save
from sft.trainer.engine import start_engine
from sft.trainer.report import Reporter

ROUNDS, WARMUP, STEPS, EVERY = 8, 3, 20, 10
RANKS = {"nodes": 1, "gpus_per_node": 2}


def main() -> None:
    """Print the mean time of a step with and without saves, and their ratio."""
    steps.be_quiet()
    with tempfile.TemporaryDirectory() as scratch:
        data = work.write_rows(Path(scratch) / "train.jsonl")
        paths = {"data_path": Path(scratch) / "data", "model_path": Path(scratch) / "models", "runs_path": scratch}
        chosen = {"dataset": data, "run_name": "saves"} | paths | cpu.WORK | RANKS
        settings = Effective.of(without_plan(steps.settings_of("cpu", chosen)))
        lifecycle.create(settings, hostfile.hostfile(1, 2))
        steps.forked(1, lambda: work.prepared(settings))
        found = steps.forked(settings.world_size, lambda: measure(settings))
    for name in ("without", "with"):
        each = ", ".join(f"{1000 * value:.0f}" for value in found[name])
        print(f"{name} saves: {1000 * statistics.mean(found[name]):.1f} ms a step ({each})")
    print(f"a save of {found['mib']:.1f} MiB stops training for {1000 * found['still']:.1f} ms")
    ratio = statistics.mean(found["with"]) / statistics.mean(found["without"])
    median = statistics.median(a / b for a, b in zip(found["with"], found["without"], strict=True))
    print(f"with a save every {EVERY} steps over without: {ratio:.3f} on average, {median:.3f} in the median of turns")


def measure(settings: Effective) -> dict[str, object]:
    """Return the seconds per step of every turn (all ranks)."""
    world = distributed.start("cpu", steps.TIMEOUT_S)
    run = Run(settings.runs_path / settings.run_name)
    path, rows = work.prepared(settings)
    engine, _ = start_engine(path, settings, deepspeed.configuration(settings), world)
    packing = fast_paths.take_fast_paths(engine, settings.packing, world)
    saver, reporter = save.Saver(engine, run, settings.keep_checkpoints, world), Reporter(run, settings, world)
    found: dict[str, list[float]] = {"with": [], "without": []}
    still: list[float] = []
    step = 0
    for turn in range(-1, 2 * ROUNDS):
        # The order within a pair alternates.
        saves = turn >= 0 and (turn % 4 in (0, 3))
        distributed.barrier()
        started = time.perf_counter()
        for i in range(STEPS if turn >= 0 else WARMUP):
            chosen = batching.rows_of_step(step, len(rows), settings.sequences_per_step, settings.seed)
            targets = rows.target_tokens(chosen)
            micro_steps = batching.micro_steps(chosen, rows.lengths, settings, packing)
            loop.optimizer_step(engine, rows, micro_steps, targets, packing, False, world)
            step += 1
            if saves and i % EVERY == EVERY // 2:
                before = time.perf_counter()
                with reporter.phase("saving"):
                    saver.start(step)
                still.append(time.perf_counter() - before)
        saver.finish()
        distributed.barrier()
        if turn >= 0:
            found["with" if saves else "without"].append((time.perf_counter() - started) / STEPS)
    newest = run.checkpoints / (run.checkpoints / "latest").read_text().strip()
    size = sum(file.stat().st_size for file in newest.iterdir())
    distributed.end()
    return found | {"still": statistics.mean(still), "mib": size / 2**20}


if __name__ == "__main__":
    main()
