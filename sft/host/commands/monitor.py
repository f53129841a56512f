"""`make monitor`: what a run is doing, read from its directory; live in a terminal, printed once elsewhere."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from sft import resources
from sft.host.commands.logs import MANY
from sft.host.commands.metrics_reader import MetricsReader, curve
from sft.host.commands.progress import bar_line, phase_of
from sft.host.commands.snapshot import Snapshot
from sft.host.screen import duration
from sft.nouns import counted
from sft.run.directory import Run
from sft.run.records import ENDED, Evaluation, Results

REFRESH_S = 0.5
BLOCKS = "▁▂▃▄▅▆▇█"
UNBROKEN = 10_000  # columns if there is no terminal: lines in a file or a pipe are never broken
SILENT_S = 60  # seconds without a sign of life after which a user should look
# How metrics are shown, by their names in metrics.jsonl.
FORMATS = {
    "train/loss": ("loss", "{:.4f}"),
    "val/loss": ("validation loss", "{:.4f}"),
    "train/lr": ("learning rate", "{:.3g}"),
    "train/grad_norm": ("gradient norm", "{:.3f}"),
    "perf/tokens_per_second": ("tokens/s", "{:,.0f}"),
    "perf/step_s": ("seconds per step", "{:.3f}"),
    "mem/peak_gib": ("peak GPU memory", "{:.2f} GiB"),
}
NAMED = 8  # nodes that are not there, in a line
COLOURS = {"finished": "green", "stopped": "yellow", "failed": "red"}


def blocks(values: list[float]) -> str:
    """Draw values as a line of blocks, on a logarithmic scale: a loss falls fast at first, and would then look flat."""
    if min(values) > 0:
        values = [math.log(value) for value in values]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BLOCKS[min(7, int((value - low) / span * 8))] for value in values)


@dataclass(frozen=True)
class Line:
    """A line that is drawn as wide as the terminal."""

    draw: Callable[[int], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield self.draw(options.max_width)


def loss_line(losses: list[float], last: float, width: int) -> Text:
    """Draw the first loss, the curve and the last loss."""
    first, end = f"loss {losses[0]:.4f} ", f" {last:.4f}"
    return Text(first + blocks(curve(losses, max(1, width - len(first) - len(end)))) + end, no_wrap=True)


def render(seen: Snapshot) -> RenderableType:
    """Return a snapshot for people. For a failed run, its name and the reason come last, just above the prompt."""
    state, losses = seen.state, seen.losses
    head = Text.assemble((seen.run.name, "bold"), "  ", (seen.status, COLOURS.get(state.status, "cyan")))
    parts: list[RenderableType] = [*log_ends(seen)]
    if not state.error:
        parts.append(head)
    parts += [Text(problem, "yellow") for problem in seen.problems]
    if state.status not in ENDED and seen.running:
        phase, elapsed = phase_of(state), duration(seen.elapsed_s)
        parts.append(Line(lambda width: bar_line(phase, width, elapsed)))
    table = Table.grid(padding=(0, 2))
    for label, value in facts(seen):
        table.add_row(Text(label, "dim"), Text(value))
    parts.append(table)
    if len(losses) > 1:
        parts += [Text(), Line(lambda width: loss_line(losses, seen.metrics.get("train/loss", losses[-1]), width))]
    if seen.gpus:
        parts += [Text(), gpu_table(seen)]
    if state.error:
        parts += [Text(), head, Text(state.error, "red")]
    return Group(*parts, *what_to_do(seen))


def log_ends(seen: Snapshot) -> Iterator[Text]:
    """Yield the last lines of each node's log."""
    for name, lines in seen.logs.items():
        yield Text(f"the end of logs/{name}.log", "bold")
        yield from (Text(f"  {line}", no_wrap=True, overflow="ellipsis") for line in lines)
        yield Text()


def what_to_do(seen: Snapshot) -> Iterator[Text]:
    """Yield the lines about a run that is not running: how to continue it, and where to look."""
    if seen.is_dead:
        yield Text()
        yield Text("it is not running", "red")
    if seen.how_to_continue:
        yield Text(seen.how_to_continue)
    if seen.others:
        yield Text(f"another run is at work: {', '.join(f'`{command}`' for command in seen.others)}")
    if seen.logs or seen.state.status == "failed":
        yield Text(f"the whole logs: `{seen.run.command('logs')} LINES=0`", "dim")
        if len(seen.nodes) > MANY:
            yield Text("the log of another node: NODE=7 behind it, or NODE=all", "dim")


def facts(seen: Snapshot) -> list[tuple[str, str]]:
    """Return the values of a snapshot with their labels."""
    state, metrics = seen.state, seen.metrics
    found = []
    if state.total_steps:
        step, total = state.step, state.total_steps
        found.append(("step", f"{step:,} of {total:,} ({step / total:.0%}), epoch {state.epoch:.2f}"))
    if seen.job:
        found.append(("Slurm", seen.job.words))
    since = " since it was resumed" if state.attempt > 1 else ""
    found.append(("elapsed", duration(seen.elapsed_s) + since))
    if state.status == "training" and state.time_left_s is not None:
        found.append(("time left", duration(state.time_left_s)))
    found += places(seen)
    found += [(label, form.format(metrics[key])) for key, (label, form) in FORMATS.items() if key in metrics]
    found += scores(seen.results)
    found += [("template" * (number == 0), line) for number, line in enumerate(seen.template)]
    if not seen.gpus and seen.running:
        import psutil  # 10 ms that a run which has ended does not need

        memory = psutil.virtual_memory()
        used, all_of_it = (memory.total - memory.available) / 2**30, memory.total / 2**30
        load = f"load {os.getloadavg()[0]:.1f} on {counted(resources.cores(), 'core')}"
        found.append(("machine", f"{used:.1f} of {all_of_it:.1f} GiB; {load}"))
    silent = state.status not in ENDED and seen.age_s > SILENT_S
    hint = f" - silent, see `{seen.run.command('logs')}`" if silent else ""
    found.append(("last update", f"{duration(seen.age_s)} ago{hint}"))
    if state.wandb:
        found.append(("W&B", state.wandb))
    found.append(("directory", str(seen.run.path)))
    return found


def places(seen: Snapshot) -> list[tuple[str, str]]:
    """Return where the ranks are: a line for each node, or for many nodes one line, and one for those not there."""
    nodes = seen.nodes
    if len(nodes) <= MANY:
        return [
            (node.name, f"rank{'s' * (len(node.ranks) > 1)} {', '.join(map(str, node.ranks))} on {node.host}")
            for node in nodes
        ]
    hosts = dict.fromkeys(node.host for node in nodes)
    first, last = nodes[0], nodes[-1]
    where = f"on {len(hosts)} hosts, {first.host} to {last.host}" if len(hosts) > 1 else f"on {first.host}"
    ranks = sum(len(node.ranks) for node in nodes)
    found = [("nodes", f"{len(nodes)} of {seen.number_of_nodes}, {ranks:,} ranks, {where}")]
    if seen.nodes_missing:
        others = len(seen.nodes_missing) - NAMED
        more = f" and {others} more" if others > 0 else ""
        found.append(("not there yet", f"nodes {', '.join(map(str, seen.nodes_missing[:NAMED]))}{more}"))
    return found


def scores(results: Evaluation) -> list[tuple[str, str]]:
    """Return the results so far of the evaluations before and after training."""
    before, after = results.before or Results(), results.after or Results()
    rows = [
        ("evaluation loss", "{:.4f}", before.loss, after.loss),
        ("perplexity", "{:.2f}", before.perplexity, after.perplexity),
        (results.exact_match_name, "{:.1%}", before.exact_match, after.exact_match),
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
        return  # the run continues without the monitor
