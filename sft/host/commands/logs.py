"""`make logs`: what the nodes of a run print, each line with its node."""

from __future__ import annotations

import re
import time
from pathlib import Path

from rich.console import Console

from sft.run.directory import Run

POLL_S = 0.3
LAST, LOOK_BACK = 5, 100  # lines of each node beside a failure's reason, and where they are looked for
OF_LAUNCHER = re.compile(r"\[[-\d :,]+\] \[(INFO|WARNING|ERROR)\] \[(launch|runner)\.py:")


def logs(run: Run, console: Console, follow: bool, lines: int) -> None:
    """Print the last `lines` lines of every node's log (0: all), and go on as they grow where `follow` is set."""
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
        return  # the run goes on


def ends(run: Run) -> dict[str, list[str]]:
    """Return the last lines of each node's log by `node-R`, few enough to leave the reason of a failure in sight.

    What DeepSpeed's launcher says of itself is left out, and so is the reason, which is said elsewhere.
    """
    reason = str(run.state().error)
    found = {}
    for path in run.log_files():
        lines = [line.rstrip() for line in run.log_tail(path, LOOK_BACK)]
        telling = [line for line in lines if line and not OF_LAUNCHER.match(line) and not line.endswith(reason)]
        if telling:
            found[path.stem] = telling[-LAST:]
    return found


def print_new(path: Path, position: int, console: Console) -> int:
    """Print the whole lines of a log behind `position`; return the position behind them."""
    with path.open("rb") as file:
        file.seek(position)
        whole = file.read().rpartition(b"\n")[0]
    for line in whole.decode(errors="replace").split("\n") if whole else []:
        console.print(f"{path.stem} | {line}")
    return position + len(whole) + 1 if whole else position
