"""The whole pipeline as a user runs it, and the time that a start takes: `python -m benchmarks.pipeline --help`.

It runs `inv train` three times on one GPU, with a model of random weights. Such a model never ends an answer, so every
held-out row is answered with MAX_NEW_TOKENS tokens, before and after training. The first run is complete, and nothing
is prepared before it. The other two are starts of a few steps without evaluation; the second one finds what the first
has prepared. Each prints one JSON line: the wall time, the parts that the report names, and the time from the command
to the beginning and end of the first step. Settings in `.env` count, as in every run, unless they are set here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import steps, work
from sft.run.directory import Run

FEW_STEPS = 5
SETTINGS = {
    "LAUNCHER": "local", "NODES": 1, "GPUS_PER_NODE": 1, "GLOBAL_BATCH_SIZE": 256, "MAX_EPOCHS": 2, "MAX_STEPS": 0,
    "EVALUATE": 1, "EVAL_LIMIT": 0, "MAX_NEW_TOKENS": 256, "FRESH": 1, "RUN_NAME": "",
}  # fmt: skip
START = {"MAX_STEPS": FEW_STEPS, "EVALUATE": 0}


def main() -> None:
    """Measure the three runs."""
    parser = work.options(__doc__)
    parser.add_argument("settings", nargs="*", help="NAME=value: settings that differ from the benchmark's")
    arguments = parser.parse_args()
    scratch = arguments.scratch.resolve()
    model = Path(str(steps.its_work(arguments)["model_name"])).resolve()
    given = dict(word.split("=", 1) for word in arguments.settings)
    inputs = {"MODEL_NAME": model, "DATASET": arguments.data.resolve(), "DEVICE": arguments.device}
    for folder in ("whole", "starts"):
        shutil.rmtree(scratch / folder, ignore_errors=True)
    for name, folder, other in (
        ("whole pipeline", "whole", {}),
        ("first start", "starts", START),
        ("second start", "starts", START),
    ):
        paths = {"DATA_PATH": scratch / folder / "data", "RUNS_PATH": scratch / folder / "runs"}
        found = measure(SETTINGS | inputs | paths | other | given)
        print(json.dumps({"what": name} | found), flush=True)


def measure(settings: dict[str, object]) -> dict[str, object]:
    """Run `inv train` to its end and return its times in seconds. Raises SystemExit if it fails."""
    environment = os.environ | {name: str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "invoke", "train"]
    began = time.time()
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
    wall = time.time() - began
    if done.returncode:
        raise SystemExit(f"inv train ended with {done.returncode}; see above")
    run = Run(Path(str(settings["RUNS_PATH"])) / "latest")
    state, metrics = run.state(), list(run.read_metrics())
    parts = state.seconds
    first, last = metrics[0], metrics[-1]
    first_end = (first.time or began) - began  # written at the end of the first step: LOGGING_STEPS=1
    return {
        "wall_s": round(wall, 1),
        "command_to_first_step_s": round(first_end - parts["first step"], 1),
        "command_to_first_steps_end_s": round(first_end, 1),
        "parts_s": parts,
        # The start of the command before the ranks measure, and its end after them.
        "outside_parts_s": round(wall - sum(parts.values()), 1),
        "steps": state.total_steps,
        "tokens_per_second": round(last.values["perf/tokens_per_second"]),
        "loss": [first.values["train/loss"], last.values["train/loss"]],
        "evaluation": {moment: results.numbers() for moment, results in run.results().parts().items()},
        "budget": run.settings().max_tokens_per_micro_step,
    }


if __name__ == "__main__":
    main()
