"""`make train` and `make demo`: from settings to a finished run, with both nodes on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from sft import cluster
from sft import run as runs
from sft.errors import RunFailed, SettingsError, UserError, wrong
from sft.host import gpus, plan_view
from sft.host import plan as planning
from sft.host.progress import display, duration
from sft.run import Run
from sft.settings import TINY, Settings
from sft.steps import Steps

POLL_S = 0.2


def train(settings: Settings, console: Console, command: str) -> None:
    """Run the whole pipeline, or resume it, and print the result; `command` is what resumes it. Raises SftError."""
    settings, cards = decide(settings, console)
    run, others = runs.resumable(settings)
    need_port(settings)
    settings, plan = planning.rule(settings, cards)
    for line in plan_view.before(plan):
        console.print(line)
    if run:
        runs.reopen(run, settings)
        console.print(f"resuming {run.path} after step {run.state()['step']} (FRESH=1 starts over)")
    else:
        for line in others:
            console.print(line)
        run = runs.create(settings, cluster.hostfile(settings.nodes, settings.gpus_per_node))
        console.print(f"run {run.path}")
    planning.freeze(plan, run)
    watch(run, start_nodes(run, settings, cards), console)
    conclude(run, console, command)


def evaluate(settings: Settings, name: str, console: Console) -> None:
    """Evaluate a run's base and final model anew, with the evaluation settings of now. Raises SftError."""
    run = runs.find(settings.runs_path, name)
    if run.is_running():
        raise UserError(f"{run.path}: is running, and evaluates at its end; watch it with `inv monitor`")
    if not run.final.is_dir():
        raise UserError(f"{run.path}: has no final model yet; finish the run with `make train` first")
    chosen = {name: getattr(settings, name) for name in ("eval_limit", "eval_batch_size", "max_new_tokens")}
    frozen = run.settings().model_copy(update=chosen | {"evaluate": True})
    need_port(frozen)
    frozen, cards = decide(frozen, console)
    run.evaluation.unlink(missing_ok=True)
    runs.reopen(run, frozen)
    watch(run, start_nodes(run, frozen, cards), console)
    conclude(run, console, f"inv evaluate --name {run.name}")


def need_port(settings: Settings) -> None:
    """Raise SettingsError where the port that the ranks meet on is taken."""
    if not cluster.port_is_free(settings.master_port):
        raise SettingsError([wrong("MASTER_PORT", settings.master_port, "is in use", "choose another port")])


def decide(settings: Settings, console: Console) -> tuple[Settings, list[int]]:
    """Return the settings with device and launcher decided, and the GPUs to use; say why. Raises SettingsError."""
    cards = gpus.visible() if settings.device != "cpu" else []
    wanted = settings.world_size
    if settings.device == "cuda" and not cards:
        remedy = "run `make demo`, which needs none, or set DEVICE=cpu"
        raise SettingsError([wrong("DEVICE", "cuda", "no NVIDIA GPU is visible here", remedy)])
    if settings.device == "auto" and not cards and settings.model_name != TINY:
        what = f"no NVIDIA GPU is visible here for {settings.model_name}"
        remedy = "run `make demo`, which needs none, or set DEVICE=cpu to train on the CPU, slowly"
        raise SettingsError([wrong("DEVICE", "auto", what, remedy)])
    device, why = ("cuda", f"{len(cards)} x {cards[0].name}") if cards else ("cpu", "no GPU")
    if settings.device == "cpu":
        why = "DEVICE=cpu"
    if cards and wanted > len(cards):
        what = f"NODES={settings.nodes} nodes of it want {wanted} GPUs, {len(cards)} are here"
        remedy = f"set NODES=1 GPUS_PER_NODE={len(cards)}"
        raise SettingsError([wrong("GPUS_PER_NODE", settings.gpus_per_node, what, remedy)])
    nodes = f"{settings.nodes} node{'s' * (settings.nodes > 1)}"
    ranks = f"{settings.gpus_per_node} rank{'s' * (settings.gpus_per_node > 1)} each"
    reason = "LAUNCHER=local" if settings.launcher == "local" else "the only one"
    console.print(f"launcher local ({reason}): {nodes} on this machine, {ranks}, on {device} ({why})")
    return settings.resolved("cuda" if cards else "cpu", "local"), [card.index for card in cards[:wanted]]


# Nodes


def start_nodes(run: Run, settings: Settings, cards: list[int]) -> list[subprocess.Popen[bytes]]:
    """Start the node program for every node, each with its own cards. Secrets travel in the environment only."""
    processes = []
    for rank in range(settings.nodes):
        per_node = settings.gpus_per_node
        environment = {
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // settings.world_size)),
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
            **os.environ,
            **settings.secrets(),
            "SFT_CUDA_DEVICES": ",".join(map(str, cards[rank * per_node : (rank + 1) * per_node])),
        }
        with (run.logs / f"node-{rank}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "sft.host.launch", "--run", str(run.path), "--node-rank", str(rank)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # the node writes its log itself
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal is for us alone
            )
        processes.append(process)
    return processes


@dataclass
class Interrupts:
    """The signals that asked for a stop."""

    seen: list[int] = field(default_factory=list)


@contextmanager
def noting_interrupts() -> Iterator[Interrupts]:
    """Collect Ctrl-C, SIGTERM and the terminal's end instead of being ended by them."""
    interrupts = Interrupts()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda got, _frame: interrupts.seen.append(got)) for number in numbers]
    try:
        yield interrupts
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def watch(run: Run, nodes: list[subprocess.Popen[bytes]], console: Console) -> None:
    """Show the run until its nodes have ended. A Ctrl-C asks it to save and stop, a second one ends it at once."""
    described = False
    with noting_interrupts() as interrupts, display(console) as shown:
        heard = 0
        while None in (codes := [node.poll() for node in nodes]):
            for rank, code in enumerate(codes):
                if code is not None and code < 0 and run.failure() is None:
                    run.fail(f"node {rank}: its program was killed by signal {-code}")
            if len(interrupts.seen) > heard:
                heard = len(interrupts.seen)
                if heard == 1:
                    run.request_stop(signal.Signals(interrupts.seen[0]).name)
                    console.print("stopping: finishing the step and saving; Ctrl-C again ends at once")
                for node in nodes if heard > 1 else []:
                    if node.poll() is None:
                        node.send_signal(signal.SIGQUIT)
            if not described and run.prepared.is_file():
                describe(run, console)
                described = True
            shown.show(run.state())
            time.sleep(POLL_S)
        shown.show(run.state())
    if not run.ended:
        run.update_state("failed", error=run.failure() or "the node programs were killed")


def describe(run: Run, console: Console) -> None:
    """Print the arithmetic of the run."""
    settings = run.settings()
    prepared = json.loads(run.prepared.read_text())
    for split in ("train", "validation"):
        part = prepared[split]
        cut = f", {part['cut_rows']:,} cut at MAX_LENGTH={settings.max_length}" if part["cut_rows"] else ""
        tokens = f"{part['tokens']:,} tokens, {part['target_tokens']:,} of them targets"
        console.print(
            f"{split:>10}: {part['rows']:,} rows, {tokens}, longest row {part['longest']}{cut}", highlight=False
        )
    for line in Steps.of(settings, prepared["train"]["rows"]).describe(settings):
        console.print(f"{'':>10}  {line}")


# The end


def conclude(run: Run, console: Console, command: str) -> None:
    """Print how the run ended. Raises RunFailed where it broke."""
    state = run.state()
    if state["status"] == "failed":
        for path in run.log_files():
            console.print(f"the end of {path}:")
            for line in run.log_tail(path):
                console.print(f"  {line}")
        raise RunFailed(f"{run.path}: failed: {state['error']}")
    if state["status"] == "stopped":
        console.print(
            f"stopped after step {state['step']} of {state['total_steps']}; `{command}` resumes it", highlight=False
        )
        return
    report(run, console)


def report(run: Run, console: Console) -> None:
    """Print what a finished run achieved and where everything lies."""
    state = run.state()
    spent = state["seconds"]
    console.print(f"\nfinished: {state['total_steps']:,} steps in {duration(sum(spent.values()))}")
    console.print(
        "          " + ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in spent.items() if seconds >= 0.5)
    )
    for line in plan_view.beside_measured(run):
        console.print(line)
    results = json.loads(run.evaluation.read_text()) if run.evaluation.is_file() else {}
    for line in evaluation_lines(results):
        console.print(line)
    for label, path in {"model": run.final, "metrics": run.metrics, "logs": run.logs, "all": run.path}.items():
        console.print(f"{label:>10}: {path}")


def evaluation_lines(results: dict[str, Any]) -> list[str]:
    """Return the lines that set the tuned model beside the base model, with sample answers of the tuned one."""
    if not {"before", "after"} <= results.keys():
        return []
    lines = ["", f"{'':<28}{'before':>10}{'after':>10}"]
    names = {
        "loss": "validation loss",
        "exact_match": "exact match",
        "exact_match_flexible": "last number right",
    }
    for key, label in names.items():
        values = [results[name].get(key) for name in ("before", "after")]
        shown = ["-" if value is None else f"{value:.4f}" if key == "loss" else f"{value:.1%}" for value in values]
        lines.append(f"{label:<28}{shown[0]:>10}{shown[1]:>10}")
    lines[-1] += f"   of {results['after']['answers']:,} held-out rows"
    for sample in results["after"]["samples"]:
        mark = "right" if sample["correct"] else "wrong"
        lines += ["", f"  asked:    {one_line(sample['prompt'])}"]
        lines += [f"  answered: {one_line(sample['answer'])} ({mark}; wanted {one_line(sample['reference'])})"]
    return [*lines, ""]


def one_line(text: str, width: int = 160) -> str:
    """Return a text on one line, cut to `width` characters."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
