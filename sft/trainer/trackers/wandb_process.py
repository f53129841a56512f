"""The program that logs a run in Weights & Biases: `python -m sft.trainer.trackers.wandb_process --run runs/NAME`.

It reads `metrics.jsonl` as rank 0 writes it, in a process of its own: W&B and its service may hang, break or be killed
there without the training noticing. Rank 0 starts it (metrics.py), ends it by a line on its standard input, and is told
over a pipe: one JSON object, `{"url": …}` once it logs, `{"error": …}` if it cannot.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import select
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft.redaction import guard_tracebacks, redact
from sft.run.directory import Run
from sft.run.files import write_whole
from sft.run.metrics import metrics_line
from sft.settings.fields import Settings

POLL_S = 0.5
MESSAGE = 300  # characters of what W&B says
START_S = 60  # for W&B's server to answer
END = b"end\n"
LIMIT_S = 90  # after the end of the rank: longer than it waits for this process, if it is there to wait


def main() -> None:
    """Log until rank 0 says that the run is over, or is gone."""
    guard_tracebacks()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they ask the run to stop: the end is still to come
        signal.signal(number, signal.SIG_IGN)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--logged", type=int, required=True, help="lines of the metrics that earlier attempts wrote")
    parser.add_argument("--reports", type=int, required=True, help="the descriptor that rank 0 is told over")
    arguments = parser.parse_args()
    run = Run(arguments.run)
    os.set_inheritable(arguments.reports, False)  # W&B's service has no part in it, nor in the orders
    orders = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        logged = start(run, run.settings())
        report(arguments.reports, url=None if logged.offline else logged.url)
        ordered = follow(run, logged, arguments.logged if logged.offline else 0, orders)
        logged.finish(exit_code=0 if ordered else 1)
    except Exception as error:
        report(arguments.reports, error=redact(textwrap.shorten(f"{type(error).__name__}: {error}", MESSAGE)))
        os._exit(1)  # what W&B does at a process's end may hang on what broke here


def report(reports: int, **values: Any) -> None:
    """Tell rank 0 something, if it is there."""
    with contextlib.suppress(OSError):
        os.write(reports, json.dumps(values).encode() + b"\n")


def start(run: Run, settings: Settings) -> Any:
    """Return a W&B run as WANDB_MODE wants it, the same one after a resume."""
    mode, key = settings.wandb_mode, settings.wandb_api_key.get_secret_value()
    os.environ["WANDB_MODE"] = ("online" if key else "offline") if mode == "auto" else mode  # W&B knows no auto
    if key:
        os.environ["WANDB_API_KEY"] = key
        for debug in ("WANDB_DEBUG", "WANDB_CORE_DEBUG"):  # writes the key into logs of its own in the run directory
            os.environ.pop(debug, None)
    import wandb  # takes a second

    return wandb.init(
        dir=run.path,
        project=settings.wandb_project_name,
        entity=settings.wandb_entity or None,
        name=settings.wandb_run_name or run.name,
        id=own_id(run),
        resume="allow",
        config=settings.freeze(),
        settings=wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            init_timeout=START_S,
            x_stats_pid=os.getppid(),  # whose memory and processor time W&B shows
        ),
    )


def own_id(run: Run) -> str:
    """Return the run's id in W&B, drawn once: a name that somebody else in the team uses too would be resumed there."""
    path = run.path / "wandb" / "id"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, secrets.token_hex(8) + "\n")
        return path.read_text().strip()


def follow(run: Run, logged: Any, skipped: int, orders: int) -> bool:
    """Log the lines of the metrics as they come, but the first `skipped`. Return whether the end was ordered.

    It is not if rank 0 is gone. What W&B has already got of a resumed run it would not take again.
    """
    lines = new_lines(run.metrics)
    number = 0
    order: bytes | None = None
    while order is None:
        order = os.read(orders, len(END)) if select.select([orders], [], [], POLL_S)[0] else None
        if order is not None:
            limit = threading.Timer(LIMIT_S, os._exit, [1])
            limit.daemon = True
            limit.start()
        for line in iter(lambda: next(lines), None):
            number += 1
            if number > skipped:
                log(logged, line)
    return order == END


def log(logged: Any, line: dict[str, Any]) -> None:
    """Log one line of the metrics."""
    step = line.pop("step")
    line.pop("time", None)
    if step >= logged.starting_step:
        logged.log(line, step=step)
    elif any(name.startswith("eval/") for name in line):  # evaluated again, long after the last step
        logged.summary.update(line)


def new_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield a file's lines as they are written, and None if there is none for now; what is not JSON is left out."""
    with path.open("rb") as file:
        begun = b""
        while True:
            part = file.readline()
            if not part:
                yield None
                continue
            begun += part
            if begun.endswith(b"\n"):
                if line := metrics_line(begun):
                    yield line
                begun = b""


if __name__ == "__main__":
    main()
    sys.stdout.flush()
