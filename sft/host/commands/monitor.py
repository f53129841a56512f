"""`make monitor`: what a run is doing, read from its directory; live in a terminal, printed once elsewhere."""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import psutil
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sft import resources
from sft.host import gpus
from sft.host.commands import ending
from sft.host.commands.logs import ends
from sft.host.commands.progress import bar_line, phase_of
from sft.host.gpus import Gpu
from sft.host.screen import duration
from sft.run.directory import Run
from sft.run.find import at_work
from sft.run.metrics import metrics_line
from sft.run.records import ENDED, Evaluation, NodeInfo, Results, State

REFRESH_S = 0.5
CURVE_WIDTH = 60
BLOCKS = "▁▂▃▄▅▆▇█"
UNBROKEN = 10_000  # columns of what is no terminal: a file or a pipe has whole lines
SILENT_S = 60  # seconds without a sign of life after which a user should look
COLOURS = {"finished": "green", "stopped": "yellow", "failed": "red"}


class MetricsReader:
    """Reads `metrics.jsonl` as it grows, each line once."""

    def __init__(self, run: Run) -> None:
        """Read the metrics of `run`."""
        self.run = run
        self.lines: list[dict[str, float]] = []
        self.inode = self.offset = self.bad = 0

    def read(self) -> list[dict[str, float]]:
        """Return all logged lines; one still being written comes next time, one that cannot be read is counted."""
        try:
            with self.run.metrics.open("rb") as file:
                if os.fstat(file.fileno()).st_ino != self.inode:  # a resumed run writes the file anew
                    self.lines, self.inode, self.offset, self.bad = [], os.fstat(file.fileno()).st_ino, 0, 0
                file.seek(self.offset)
                whole = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return []
        if whole:
            found = [metrics_line(line) for line in whole.split(b"\n")]
            self.lines += [line for line in found if line is not None]
            self.bad += found.count(None)
            self.offset += len(whole) + 1
        return self.lines

    def problems(self) -> list[str]:
        """Return a line for what cannot be read in the run directory."""
        lines = [f"{self.run.metrics}: lines that cannot be read and are left out: {self.bad}"] if self.bad else []
        return [*self.run.unreadable_files(), *lines]


@dataclass(frozen=True)
class Snapshot:
    """Everything that the monitor shows of a run at one moment."""

    run: Run
    running: bool
    age_s: float  # since the last sign of life
    elapsed_s: float  # in this attempt
    state: State
    problems: list[str]  # a line for each file that cannot be read
    metrics: dict[str, float]  # the newest value of each
    losses: list[float]  # of the whole run, as a curve
    results: Evaluation
    nodes: list[NodeInfo]
    gpus: list[Gpu]
    goes_on: str  # how to go on with a run that is not at work
    logs: dict[str, list[str]]  # of a run that broke: the end of each node's log
    others: list[str]  # commands that show other runs that are at work

    @classmethod
    def of(cls, run: Run, metrics: list[dict[str, float]], problems: Sequence[str] = ()) -> Snapshot:
        """Look at a run now, with the lines of its metrics so far."""
        state, now = run.state(), time.time()
        updated_at = state.updated_at or now
        ended, running = state.status in ENDED, run.is_running()
        latest: dict[str, float] = {}
        for line in metrics[-50:]:
            latest |= line
        return cls(
            run=run,
            running=running,
            age_s=round(now - updated_at, 1),
            elapsed_s=round((updated_at if ended else now) - (state.attempt_started_at or now), 1),
            state=state,
            problems=list(problems),
            metrics=latest,
            losses=curve([line["train/loss"] for line in metrics if "train/loss" in line]),
            results=run.results(),
            nodes=run.nodes(),
            gpus=gpus.visible(),
            goes_on="" if running or state.status == "finished" else ending.goes_on(run, run.command("resume")),
            logs=ends(run) if state.status == "failed" or not (ended or running) else {},
            others=[] if running else [other.command("monitor") for other in at_work(run.path.parent)],
        )

    def node_of(self, gpu: Gpu) -> str:
        """Return the name of the node that has a GPU, or ""."""
        return next((node.name for node in self.nodes if gpu.uuid in node.gpus), "")

    def to_json(self) -> dict[str, object]:
        """Return what `inv monitor --json` prints; scripts of users read it."""
        return {
            "run": self.run.name,
            "path": str(self.run.path),
            "running": self.running,
            "age_s": self.age_s,
            "elapsed_s": self.elapsed_s,
            "state": self.state.to_json(),
            "problems": self.problems,
            "metrics": self.metrics,
            "losses": self.losses,
            "evaluation": {moment: results.numbers() for moment, results in self.results.parts().items()},
            "nodes": [node.to_json() for node in self.nodes],
            "gpus": [asdict(gpu) | {"node": self.node_of(gpu)} for gpu in self.gpus],
            "goes_on": self.goes_on,
            "logs": self.logs,
            "others": self.others,
        }


def curve(values: list[float], width: int = CURVE_WIDTH) -> list[float]:
    """Return at most `width` values, each the mean of a stretch."""
    number = min(width, len(values))
    edges = [round(i * len(values) / number) for i in range(number + 1)] if number else []
    return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]


def blocks(values: list[float]) -> str:
    """Return values as a line of blocks, the lowest to the highest.

    On a logarithmic scale: a loss falls fast at first, and what it does later would be flat on a linear one.
    """
    if min(values) > 0:
        values = [math.log(value) for value in values]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BLOCKS[min(7, int((value - low) / span * 8))] for value in values)


@dataclass(frozen=True)
class Line:
    """A line as wide as the terminal: of a run's phase, or of its losses."""

    draw: Callable[[int], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield it, drawn for the width that there is."""
        yield self.draw(options.max_width)


def loss_line(losses: list[float], last: float, width: int) -> Text:
    """Return the first loss, the curve and the last loss."""
    first, end = f"loss {losses[0]:.4f} ", f" {last:.4f}"
    return Text(first + blocks(curve(losses, max(1, width - len(first) - len(end)))) + end, no_wrap=True)


def render(seen: Snapshot) -> RenderableType:
    """Return a snapshot as a person wants to see it: of a failed run name and reason last, above the prompt."""
    state, metrics = seen.state, seen.metrics
    status = state.status
    parts: list[RenderableType] = []
    for name, lines in seen.logs.items():
        parts.append(Text(f"the end of logs/{name}.log", "bold"))
        parts += [Text(f"  {line}", no_wrap=True, overflow="ellipsis") for line in lines]
        parts.append(Text())
    head = Text.assemble((seen.run.name, "bold"), "  ", (status, COLOURS.get(status, "cyan")))
    if not state.error:
        parts.append(head)
    parts += [Text(problem, "yellow") for problem in seen.problems]
    phase, elapsed = phase_of(state), duration(seen.elapsed_s)
    if status not in ENDED and seen.running:
        parts.append(Line(lambda width: bar_line(phase, width, elapsed)))
    table = Table.grid(padding=(0, 2))
    for label, value in facts(seen):
        table.add_row(Text(label, "dim"), value)
    parts.append(table)
    losses = seen.losses
    if len(losses) > 1:
        parts += [Text(), Line(lambda width: loss_line(losses, metrics.get("train/loss", losses[-1]), width))]
    if seen.gpus:
        parts += [Text(), gpu_table(seen)]
    if state.error:
        parts += [Text(), head, Text(state.error, "red")]
    if status not in ENDED and not seen.running:
        parts += [Text(), Text("nothing is at work on it", "red")]
    if seen.goes_on:
        parts.append(Text(seen.goes_on))
    if seen.others:
        parts.append(Text(f"another run is at work: {', '.join(f'`{command}`' for command in seen.others)}"))
    if seen.logs or status == "failed":
        parts.append(Text(f"the whole logs: `{seen.run.command('logs')} LINES=0`", "dim"))
    return Group(*parts)


def facts(seen: Snapshot) -> list[tuple[str, str]]:
    """Return the labelled values of a snapshot."""
    state, metrics = seen.state, seen.metrics
    found = []
    if state.total_steps:
        step, total = state.step, state.total_steps
        found.append(("step", f"{step:,} of {total:,} ({step / total:.0%}), epoch {state.epoch:.2f}"))
    since = " since it was resumed" if state.attempt > 1 else ""
    found.append(("elapsed", duration(seen.elapsed_s) + since))
    if state.status == "training" and state.time_left_s is not None:
        found.append(("time left", duration(state.time_left_s)))
    for node in seen.nodes:
        ranks = ", ".join(map(str, node.ranks))
        found.append((node.name, f"rank{'s' * (len(node.ranks) > 1)} {ranks} on {node.host}"))
    formats = {
        "train/loss": ("loss", "{:.4f}"),
        "val/loss": ("validation loss", "{:.4f}"),
        "train/lr": ("learning rate", "{:.3g}"),
        "train/grad_norm": ("gradient norm", "{:.3f}"),
        "perf/tokens_per_second": ("tokens/s", "{:,.0f}"),
        "perf/step_s": ("seconds per step", "{:.3f}"),
        "mem/peak_gib": ("peak GPU memory", "{:.2f} GiB"),
    }
    found += [(label, form.format(metrics[key])) for key, (label, form) in formats.items() if key in metrics]
    found += scores(seen.results)
    if not seen.gpus and seen.running:
        memory = psutil.virtual_memory()
        used, all_of_it = (memory.total - memory.available) / 2**30, memory.total / 2**30
        load = f"load {os.getloadavg()[0]:.1f} on {resources.cores()} cores"
        found.append(("machine", f"{used:.1f} of {all_of_it:.1f} GiB; {load}"))
    silent = state.status not in ENDED and seen.age_s > SILENT_S
    hint = f" - silent, see `{seen.run.command('logs')}`" if silent else ""
    found.append(("last update", f"{duration(seen.age_s)} ago{hint}"))
    if state.wandb:
        found.append(("W&B", state.wandb))
    found.append(("directory", str(seen.run.path)))
    return found


def scores(results: Evaluation) -> list[tuple[str, str]]:
    """Return what the evaluations before and after training have found so far."""
    before, after = results.before or Results(), results.after or Results()
    rows = [
        ("evaluation loss", "{:.4f}", before.loss, after.loss),
        ("exact match", "{:.1%}", before.exact_match, after.exact_match),
    ]
    found = []
    for label, form, *values in rows:
        if values != [None, None]:
            then, now = ("-" if value is None else form.format(value) for value in values)
            found.append((label, f"{then} before, {now} after training"))
    return found


def gpu_table(seen: Snapshot) -> Table:
    """Return the GPUs of this machine as a table."""
    table = Table(box=None, pad_edge=False)
    for title in ("node", "GPU", "load", "memory", "temperature", "power"):
        table.add_column(title, justify="left" if title in ("node", "GPU") else "right")
    for gpu in seen.gpus:
        table.add_row(
            seen.node_of(gpu),
            f"{gpu.index} {gpu.name}",
            f"{gpu.load_percent} %",
            f"{gpu.used_gib:.1f} of {gpu.total_gib:.1f} GiB",
            f"{gpu.temperature_c} °C",
            f"{gpu.power_w:.0f} W",
        )
    return table


def monitor(run: Run, console: Console, once: bool, as_json: bool) -> None:
    """Show a run: once, as JSON, or live until it has ended or the user leaves with Ctrl-C."""
    reader = MetricsReader(run)
    if as_json:
        print(json.dumps(Snapshot.of(run.at_work(), reader.read(), reader.problems()).to_json()))
        return
    if once or not console.is_terminal:
        if not console.is_terminal:
            console.width = UNBROKEN
        console.print(render(Snapshot.of(run.at_work(), reader.read(), reader.problems())), soft_wrap=False)
        return
    from rich.live import Live

    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                seen = Snapshot.of(run.at_work(), reader.read(), reader.problems())
                live.update(render(seen), refresh=True)
                if seen.state.status in ENDED and not seen.running:
                    return
                time.sleep(REFRESH_S)
    except KeyboardInterrupt:
        return  # leaving the monitor is no error; the run goes on
