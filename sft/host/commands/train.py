"""`make train` and `make demo`: from settings to a finished run."""

from __future__ import annotations

import os
from collections.abc import Callable

from rich.console import Console

from sft import model_files
from sft.errors import UserError
from sft.host import gpus, ownership, provenance
from sft.host.commands import learning_rate
from sft.host.commands.report import conclude
from sft.host.commands.watch import watch
from sft.host.folders import make_folders
from sft.host.launch import choose, compose, inputs, ports, signals
from sft.host.launch import local as nodes
from sft.host.launch.local import Nodes
from sft.host.plan import shapes
from sft.run import budget, find, lifecycle, unfinished
from sft.run.directory import Run
from sft.run.records import Environment, Start
from sft.settings import load, rules, variables
from sft.settings.fields import Settings
from sft.settings.stages import Decided, Resolved, resolve


def train(written: Settings, console: Console) -> Run:
    """Run the whole pipeline, or resume it, and print the result. Raises SftError."""
    unfinished.asked_for(written)  # one at work is said before its port or its containers are found to be in use
    resolved, cards = decide(written, console)
    settings, plan = choose.planned(resolved, cards, console.print)
    for line in learning_rate.lines(written, shapes.weights_of(settings)):
        console.print(line)
    settings, start = launcher(settings, cards, console)
    latest = find.latest(settings.runs_path)
    with signals.noted() as heard:
        with choose.open_run(settings, plan, console.print) as run:
            for line in budget.revise(run, written):
                console.print(line)
            restarts = 0
            while True:
                before = budget.cuts(run)
                watched = watch(run, start, console, heard)
                cuts = budget.cuts(run)
                if watched.broke and len(cuts) > len(before):  # every cut is smaller than the one before: no end
                    what, now = budget.in_words(cuts[-1]), cuts[-1].now
                    said = f"warning: {what}: goes on from {run.last_checkpoint()} with {now:,}"
                elif restarts < settings.restarts and watched.restart_may_help:
                    restarts += 1
                    number = f"{restarts} of RESTARTS={settings.restarts}"
                    said = f"failed: {run.state().error}; starting again from {run.last_checkpoint()} ({number})"
                else:
                    break
                console.print(said)
                for line in lifecycle.reopen(run, settings, again=True):
                    console.print(line)
            if watched.found_wrong:
                reason = run.state().error
                lifecycle.discard(run, latest)
                console.print(f"{run.path} is removed: nothing was trained")
                raise UserError(reason)
        conclude(watched, console)
    return run


def resume(name: str, console: Console) -> Run:
    """Go on with the named run, or the newest unfinished one, with its own settings. Raises SftError."""
    run, said = unfinished.to_resume(variables.runs_path(), name or os.environ.get("RUN_NAME", ""))
    for line in said:
        console.print(line)
    return train(load.resume(run.settings(), run_name=run.name, runs_path=run.path.parent), console)


def repeat(before: Run, console: Console) -> None:
    """Train a new run with the settings of an earlier one, and say what is not as it was then. Raises SftError."""
    noted = before.record(before.environment, Environment)
    inputs = noted.began.inputs if noted else None
    frozen = before.settings().freeze()
    if commit := inputs.model_commit if inputs else None:
        frozen["model_revision"] = commit
    settings = load.repeat(frozen)
    console.print(f"repeating {before.path}")
    now = provenance.current()
    then = before.settings().model_copy(update={"model_revision": commit} if commit else {})
    changed = [*rules.changed(settings, then), *rules.adjusted(settings, then)]
    lines = [f"{name} was {was}, is {value}" for name, value, was in changed]
    lines += provenance.differences(noted.began, now) if noted else [f"{before.environment.name} is not there"]
    for line in lines:
        console.print(f"  not as then: {line}")
    run = train(settings, console)
    for line in provenance.differences(Start(inputs=inputs), provenance.read(run).began):
        console.print(f"  not as then: {line}")


def decide(settings: Settings, console: Console, with_file: bool = True) -> tuple[Resolved, list[gpus.Gpu]]:
    """Return the settings with device and launcher decided, and the GPUs to use; say why. Raises SettingsError."""
    inputs.check(settings)
    cards = gpus.visible() if settings.device != "cpu" else []
    device = choose.device(settings, cards, settings.world_size, "here")
    chosen, reason = choose.choose_launcher(settings, bool(cards))
    if chosen == "compose" and device == "cuda":
        cards = compose.Stack(settings.model_copy(update={"device": device})).cards() or cards
    cards = cards[: settings.world_size]
    why = "DEVICE=cpu" if settings.device == "cpu" else f"{len(cards)} x {cards[0].name}" if cards else "no GPU"
    nodes = f"{settings.nodes} node{'s' * (settings.nodes > 1)}"
    where = "in containers of this machine" if chosen == "compose" else "on this machine"
    ranks = f"{settings.gpus_per_node} rank{'s' * (settings.gpus_per_node > 1)} each"
    if chosen == "local":
        model_files.check_bitsandbytes(settings)
    console.print(f"launcher {chosen} ({reason}): {nodes} {where}, {ranks}, on {device} ({why})")
    return resolve(settings, device, chosen, all(card.has_bf16 for card in cards), with_file), cards


def launcher(settings: Decided, cards: list[gpus.Gpu], console: Console) -> tuple[Decided, Callable[[Run], Nodes]]:
    """Return the settings with the ports that the run gets, and what starts its nodes. Raises SftError if it cannot."""
    if settings.launcher == "compose":
        stack = compose.Stack(settings)
        stack.check()
        stack.need_idle()
        ownership.say(console)
        ownership.hand_over(settings, make_folders(settings))
        stack.build(console)
        return settings, stack.up
    settings, claimed = ports.claim(settings, console)
    make_folders(settings)

    def start(run: Run) -> Nodes:
        assert claimed.names  # held as long as nodes may be started: the ranks listen only after some seconds
        return nodes.start(run, settings, cards)

    return settings, start
