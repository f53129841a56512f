"""`make logs`: what the nodes of a run print, each line with its node."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sft.errors import UserError, wrong
from sft.run.directory import Run
from sft.run.logs import LONG_LINE, last_lines

POLL_S = 0.3
LAST, LOOK_BACK = 5, 100  # lines of each log that are shown with a failure, and lines that they are chosen from
MANY = 8  # logs; of more only the telling ones are shown, unless NODE says which
TELLING = 4  # of these, at most
ALL = "all"
LAUNCHER_LINE = re.compile(r"\[[-\d :,]+\] \[(INFO|WARNING|ERROR)\] \[(launch|runner)\.py:")


def logs(run: Run, console: Console, follow: bool, lines: int, node: str = "") -> None:
    """Print the last `lines` lines of the nodes' logs (0: all); with `follow`, also new lines until the run ends.

    `node`: numbers of nodes, "all", or "" for all of a few nodes and the telling ones of many. Raises UserError.
    """
    run = run.at_work()
    positions: dict[Path, int] = {}
    paths = chosen(run, node)
    for path in paths:
        positions[path] = print_new(path, beginning_of(path, lines), console, and_incomplete=not follow)
    try:
        while follow:
            running = run.is_held()
            for path in chosen(run, node) if len(paths) <= MANY else paths:
                positions[path] = print_new(path, positions.get(path, 0), console)
            if not running:
                break
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        return  # the run continues
    if others := 0 if node else len(run.log_files()) - len(paths):
        console.print(f"{others} more nodes: `{run.command('logs')} NODE=7` shows one of them, NODE=all all")


def chosen(run: Run, node: str) -> list[Path]:
    """Return the logs of the nodes that NODE names. Raises UserError for one that is not there."""
    paths = run.log_files()
    if not node:
        return telling(run, paths)
    if node.lower() == ALL:
        return paths
    by_name = {path.stem: path for path in paths}
    numbers = [number.strip() for number in node.split(",")]
    if missing := [number for number in numbers if f"node-{number}" not in by_name]:
        there = f"this run has the logs of nodes 0 to {len(paths) - 1}" if paths else "this run has no logs yet"
        remedy = "use numbers with commas between them, or NODE=all"
        raise UserError(wrong("NODE", node, f"{missing[0] or 'nothing'} is not one of them: {there}", remedy))
    return [by_name[f"node-{number}"] for number in numbers]


def telling(run: Run, paths: Sequence[Path]) -> list[Path]:
    """Return a few of many logs: those of the nodes that a failure is about, and the first node's; or all if few."""
    if len(paths) <= MANY:
        return list(paths)
    failure = run.failure()
    named = list(failure.nodes) if failure else []
    if failure and failure.rank is not None:
        named += [number for number, node in enumerate(run.nodes()) if failure.rank in node.ranks]
    names = dict.fromkeys(f"node-{number}" for number in (*named, 0))
    by_name = {path.stem: path for path in paths}
    return [by_name[name] for name in names if name in by_name][:TELLING]


def ends(run: Run) -> dict[str, list[str]]:
    """Return the last lines of each node's log by `node-R`: few, so that the reason of a failure stays in sight.

    Those of earlier attempts and the messages of DeepSpeed's launcher are left out, and so is the reason itself, which
    is printed elsewhere.
    """
    reason = str(run.state().error)
    found = {}
    for path in telling(run, run.log_files()):
        lines = [line.rstrip() for line in last_lines(path, LOOK_BACK)]
        kept = [line for line in lines if line and not LAUNCHER_LINE.match(line) and not line.endswith(reason)]
        if kept:
            found[path.stem] = kept[-LAST:]
    return found


def beginning_of(path: Path, lines: int) -> int:
    """Return the position of the last `lines` lines of a log (0: of all)."""
    if not lines:
        return 0
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        begin = file.seek(max(0, end - lines * LONG_LINE))
        last = io.BytesIO(file.read(end - begin)).readlines()[-lines:]
    return end - sum(map(len, last))


def print_new(path: Path, position: int, console: Console, and_incomplete: bool = False) -> int:
    """Print the complete lines of a log after `position`, or all; return the position after them."""
    with path.open("rb") as file:
        file.seek(position)
        for line in file:
            if not (and_incomplete or line.endswith(b"\n")):
                break
            position += len(line)
            for text in line.decode(errors="replace").splitlines():
                console.print(f"{path.stem} | {text}")
    return position
