"""`make logs`: what the nodes of a run print, each line with its node."""

from __future__ import annotations

import re
import time
from pathlib import Path

from rich.console import Console

from sft.run.directory import Run

POLL_S = 0.3
LAST, LOOK_BACK = 5, 100  # lines of each log that are shown with a failure, and lines that they are chosen from
LAUNCHER_LINE = re.compile(r"\[[-\d :,]+\] \[(INFO|WARNING|ERROR)\] \[(launch|runner)\.py:")


def logs(run: Run, console: Console, follow: bool, lines: int) -> None:
    """Print the last `lines` lines of every node's log (0: all); with `follow`, also new lines until the run ends."""
    run = run.at_work()
    positions: dict[Path, int] = {}
    for path in run.log_files():
        positions[path] = path.stat().st_size
        text = path.read_text(errors="replace").splitlines()
        for line in text[-lines:] if lines else text:
            console.print(f"{path.stem} | {line}")
    try:
        while follow:
            running = run.is_running()
            for path in run.log_files():
                positions[path] = print_new(path, positions.get(path, 0), console)
            if not running:
                return
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        return  # the run continues


def ends(run: Run) -> dict[str, list[str]]:
    """Return the last lines of each node's log by `node-R`: few, so that the reason of a failure stays in sight.

    The messages of DeepSpeed's launcher are left out, and so is the reason itself, which is printed elsewhere.
    """
    reason = str(run.state().error)
    found = {}
    for path in run.log_files():
        lines = [line.rstrip() for line in run.log_tail(path, LOOK_BACK)]
        telling = [line for line in lines if line and not LAUNCHER_LINE.match(line) and not line.endswith(reason)]
        if telling:
            found[path.stem] = telling[-LAST:]
    return found


def print_new(path: Path, position: int, console: Console) -> int:
    """Print the complete lines of a log after `position`; return the position after them."""
    with path.open("rb") as file:
        file.seek(position)
        whole = file.read().rpartition(b"\n")[0]
    for line in whole.decode(errors="replace").split("\n") if whole else []:
        console.print(f"{path.stem} | {line}")
    return position + len(whole) + 1 if whole else position
