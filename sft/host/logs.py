"""`inv logs`: what the nodes of a run print, each line with its node."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from sft.run import Run

POLL_S = 0.3


def logs(run: Run, console: Console, follow: bool, lines: int) -> None:
    """Print the last `lines` lines of every node's log (0: all), and go on as they grow where `follow` is set."""
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


def print_new(path: Path, position: int, console: Console) -> int:
    """Print the whole lines of a log behind `position`; return the position behind them."""
    with path.open("rb") as file:
        file.seek(position)
        whole = file.read().rpartition(b"\n")[0]
    for line in whole.decode(errors="replace").split("\n") if whole else []:
        console.print(f"{path.stem} | {line}")
    return position + len(whole) + 1 if whole else position
