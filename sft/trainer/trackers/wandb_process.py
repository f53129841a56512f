"""The program that logs a run in Weights & Biases: `python -m sft.trainer.trackers.wandb_process --run runs/NAME`.

It reads `metrics.jsonl` as rank 0 writes it, in a process of its own: there W&B and its service may hang, fail or be
killed, and the training does not notice. Rank 0 starts it (wandb_tracker.py) and ends it with a line on its standard
input. It reports to rank 0 through a pipe, in one JSON object: `{"url": …}` once it logs, or `{"error": …}`.
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
from sft.run.metrics import Line
from sft.settings.fields import Settings

POLL_S = 0.5
MESSAGE = 300  # characters of what W&B says
START_S = 60  # for W&B's server to answer
END = b"end\n"
LIMIT_S = 90  # after the end of rank 0, which waits for a shorter time than that


def main() -> None:
    """Log until rank 0 says that the run is over, or has died."""
    guard_tracebacks()
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # they stop the run, which still logs
        signal.signal(number, signal.SIG_IGN)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--logged", type=int, required=True, help="lines of the metrics that earlier attempts wrote")
    parser.add_argument("--reports", type=int, required=True, help="the file descriptor of the pipe to rank 0")
    arguments = parser.parse_args()
    run = Run(arguments.run)
    os.set_inheritable(arguments.reports, False)  # W&B's service, a child process, must not have it, nor the orders
    orders = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        logged = start(run, run.settings())
        report(arguments.reports, url=None if logged.offline else logged.url)
        is_over = follow(run, logged, arguments.logged if logged.offline else 0, orders)
        logged.finish(exit_code=0 if is_over else 1)
    except Exception as error:
        report(arguments.reports, error=redact(textwrap.shorten(f"{type(error).__name__}: {error}", MESSAGE)))
        os._exit(1)  # without W&B's exit handlers, which may hang after an error


def report(reports: int, **values: str | None) -> None:
    """Report to rank 0, if it is alive."""
    with contextlib.suppress(OSError):
        os.write(reports, json.dumps(values).encode() + b"\n")


def start(run: Run, settings: Settings) -> Any:
    """Start W&B's run in the mode of WANDB_MODE. A resumed run continues the same one."""
    mode, key = settings.wandb_mode, settings.wandb_api_key.get_secret_value()
    # W&B itself has no mode auto.
    os.environ["WANDB_MODE"] = ("online" if key else "offline") if mode == "auto" else mode
    if key:
        os.environ["WANDB_API_KEY"] = key
        for debug in ("WANDB_DEBUG", "WANDB_CORE_DEBUG"):  # would write the key into log files in the run directory
            os.environ.pop(debug, None)
    import wandb  # takes a second

    return wandb.init(
        dir=run.path,
        project=settings.wandb_project_name,
        entity=settings.wandb_entity or None,
        name=name_of(run, settings),
        id=own_id(run),
        resume="allow",
        config=settings.freeze(),
        settings=wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            init_timeout=START_S,
            x_stats_pid=os.getppid(),  # rank 0, whose memory and CPU time W&B shows
        ),
    )


def name_of(run: Run, settings: Settings) -> str:
    """Return the run's name in W&B: that of an evaluation is not the name of the run that is evaluated again."""
    if settings.wandb_run_name and run.evaluated:
        return f"{settings.wandb_run_name}/{run.path.name}"
    return settings.wandb_run_name or run.name


def own_id(run: Run) -> str:
    """Return the run's id in W&B, a random one: with an id made from its name, runs of one name would become one."""
    path = run.path / "wandb" / "id"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, secrets.token_hex(8) + "\n")
        return path.read_text().strip()


def follow(run: Run, logged: Any, skipped: int, orders: int) -> bool:
    """Log the lines of the metrics as they are written, without the first `skipped`.

    Return True when rank 0 says that the run is over, False if it has died.
    """
    lines = new_lines(run.metrics)
    number = 0  # lines read
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


def log(logged: Any, line: Line) -> None:
    """Log one line of the metrics. W&B refuses steps before those that it has."""
    if line.step >= logged.starting_step:
        logged.log(line.values, step=line.step)
    elif any(name.startswith("eval/") for name in line.values):  # evaluated again, long after the last step
        logged.summary.update(line.values)


def new_lines(path: Path) -> Iterator[Line | None]:
    """Yield the lines of `metrics.jsonl` as they are written, and None if there is no new one. Skip unreadable ones."""
    with path.open("rb") as file:
        begun = b""  # the next line as far as it is written
        while True:
            part = file.readline()
            if not part:
                yield None
                continue
            begun += part
            if begun.endswith(b"\n"):
                if line := Line.parse(begun):
                    yield line
                begun = b""


if __name__ == "__main__":
    main()
    sys.stdout.flush()
