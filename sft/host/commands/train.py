"""`make train` and `make demo`: from settings to a finished run."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from sft import model_files
from sft.errors import NOT_FINITE, OUT_OF_MEMORY, RunFailed, SftError, UserError
from sft.host import gpus, ownership, provenance
from sft.host.commands import ending, learning_rate, logs
from sft.host.commands.progress import display
from sft.host.folders import make_folders
from sft.host.launch import choose, compose, inputs, ports, signals
from sft.host.launch import local as nodes
from sft.host.launch.local import Nodes
from sft.host.launch.node import ended_with
from sft.host.launch.signals import Asked
from sft.host.plan import shapes, view  # fmt: skip
from sft.host.screen import duration
from sft.run import budget, files, unfinished
from sft.run import directory as runs
from sft.run.directory import Run
from sft.settings import variables
from sft.settings.fields import Settings
from sft.steps import Steps

POLL_S = 0.2


def train(settings: Settings, console: Console) -> Run:
    """Run the whole pipeline, or resume it, and print the result. Raises SftError."""
    unfinished.asked_for(settings)  # one at work is said before its port or its containers are found to be in use
    asked = settings
    settings, cards = decide(settings, console)
    settings, plan = choose.planned(settings, cards, console.print)
    for line in learning_rate.lines(asked, shapes.weights_of(settings)):
        console.print(line)
    settings, start = launcher(settings, cards, console)
    latest = runs.latest(settings.runs_path)
    with signals.noted() as heard:
        with choose.open_run(settings, plan, console.print) as run:
            for line in budget.revise(run, asked):
                console.print(line)
            restarts = 0
            while True:
                before = budget.cuts(run)
                watched = watch(run, start, console, heard)
                cuts = budget.cuts(run)
                if watched.broke and len(cuts) > len(before):  # every cut is smaller than the one before: no end
                    said = f"warning: {cuts[-1].what}: goes on from {run.last_checkpoint()} with {cuts[-1].now:,}"
                elif restarts < settings.restarts and watched.may_go_better:
                    restarts += 1
                    number = f"{restarts} of RESTARTS={settings.restarts}"
                    said = f"failed: {run.state()['error']}; starting again from {run.last_checkpoint()} ({number})"
                else:
                    break
                console.print(said)
                for line in runs.reopen(run, settings, again=True):
                    console.print(line)
            if watched.found_wrong:
                reason = run.state()["error"]
                runs.discard(run, latest)
                console.print(f"{run.path} is removed: nothing was trained")
                raise UserError(reason)
        conclude(watched, console)
    return run


def resume(name: str, console: Console) -> Run:
    """Go on with the named run, or the newest unfinished one, with its own settings. Raises SftError."""
    run, said = unfinished.to_resume(variables.runs_path(), name or os.environ.get("RUN_NAME", ""))
    for line in said:
        console.print(line)
    return train(Settings.resume(run.settings(), run_name=run.name, runs_path=run.path.parent), console)


def repeat(before: Run, console: Console) -> None:
    """Train a new run with the settings of an earlier one, and say what is not as it was then. Raises SftError."""
    noted = provenance.read(before)
    frozen = before.settings().freeze()
    if commit := noted.get("inputs", {}).get("model_commit"):
        frozen["model_revision"] = commit
    settings = Settings.repeat(frozen)
    console.print(f"repeating {before.path}")
    now = provenance.project() | provenance.here()
    then = before.settings().model_copy(update={"model_revision": commit} if commit else {})
    changed = [*settings.changed(then), *settings.adjusted(then)]
    lines = [f"{name} was {was}, is {value}" for name, value, was in changed]
    lines += provenance.differences(noted, now) if noted else [f"{before.environment.name} is not there"]
    for line in lines:
        console.print(f"  not as then: {line}")
    run = train(settings, console)
    for line in provenance.differences({"inputs": noted.get("inputs")}, provenance.read(run)):
        console.print(f"  not as then: {line}")


def evaluate(settings: Settings, name: str, console: Console) -> None:
    """Evaluate a run's base and final model anew, with the evaluation settings of now. Raises SftError.

    Whatever becomes of it, the run stays as it is, and so do its earlier results until the new ones are whole.
    """
    run = runs.find(settings.runs_path, name)
    with run.claim():
        if not run.final.is_dir():
            raise UserError(f"{run.path}: has no final model yet; `{run.command('resume')}` finishes the run")
        names = ("eval_limit", "eval_batch_size", "max_new_tokens", "launcher")
        chosen = {name: getattr(settings, name) for name in names}
        frozen = run.settings().model_copy(update=chosen | {"evaluate": True})
        frozen, cards = decide(frozen, console)
        frozen, start = launcher(frozen, cards, console)
        with signals.noted() as heard:
            watched = watch(runs.evaluate_again(run, frozen), start, console, heard)
            results = watched.run.read(watched.run.evaluation, {})
            if watched.run.state()["status"] == "finished":
                files.write_json(run.evaluation, results)
    again = run.command("evaluate")
    if watched.run.state()["status"] == "stopped":
        kept = "the results of before stay" if run.evaluation.is_file() else "there are no results"
        console.print(f"stopped: {kept}; `{again}` evaluates the run from the beginning")
        return
    if watched.run.state()["status"] == "failed":
        conclude(watched, console, again)
    for line in evaluation_lines(results):
        console.print(line)
    for label, path in {"results": run.evaluation, "logs": watched.run.logs}.items():
        console.print(f"{label:>10}: {path}")


def decide(settings: Settings, console: Console) -> tuple[Settings, list[gpus.Gpu]]:
    """Return the settings with device and launcher decided, and the GPUs to use; say why. Raises SettingsError."""
    inputs.check(settings)
    cards = gpus.visible() if settings.device != "cpu" else []
    on = choose.with_device(settings, cards, settings.world_size, "here")
    chosen, reason = choose.choose_launcher(settings, bool(cards))
    if chosen == "compose" and on.device == "cuda":
        cards = compose.Stack(on).cards() or cards
    cards = cards[: settings.world_size]
    why = "DEVICE=cpu" if settings.device == "cpu" else f"{len(cards)} x {cards[0].name}" if cards else "no GPU"
    nodes = f"{settings.nodes} node{'s' * (settings.nodes > 1)}"
    where = "in containers of this machine" if chosen == "compose" else "on this machine"
    ranks = f"{settings.gpus_per_node} rank{'s' * (settings.gpus_per_node > 1)} each"
    if chosen == "local":
        model_files.check_bitsandbytes(settings)
    console.print(f"launcher {chosen} ({reason}): {nodes} {where}, {ranks}, on {on.device} ({why})")
    return on.resolved(on.device, chosen, all(card.has_bf16 for card in cards)), cards


def launcher(settings: Settings, cards: list[gpus.Gpu], console: Console) -> tuple[Settings, Callable[[Run], Nodes]]:
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


# At work


@dataclass(frozen=True)
class Watched:
    """How the nodes of a run ended."""

    run: Run
    codes: list[int | None]
    interrupted: bool

    @property
    def broke(self) -> bool:
        """Whether the run failed, and not while it was asked to end."""
        asked = self.interrupted or self.run.stop_reason() is not None
        return self.run.state()["status"] == "failed" and not asked

    @property
    def fixable(self) -> bool:
        """Whether a node ended for what the user can fix: a setting, a row."""
        return UserError.exit_code in self.codes

    @property
    def found_wrong(self) -> bool:
        """Whether a run without a step failed before it had its inputs, for what the user can fix: it is empty."""
        return self.broke and self.fixable and not (self.run.has_trained or self.run.prepared.is_file())

    @property
    def may_go_better(self) -> bool:
        """Whether the run broke in a way that may not come back: no wrong setting or row, no full disk or memory."""
        comes_back = (os.strerror(errno.ENOSPC), NOT_FINITE, OUT_OF_MEMORY)
        reason = str(self.run.state().get("error"))
        would_come_back = self.fixable or any(words in reason for words in comes_back)
        return self.broke and not would_come_back


def watch(run: Run, start: Callable[[Run], Nodes], console: Console, heard: Asked) -> Watched:
    """Start a run's nodes and show it until they have ended.

    A signal asks it to save and stop, a second Ctrl-C ends it at once. One that came before there are nodes stops the
    run there. Raises UserError where they cannot be started.
    """
    if heard.stop:
        run.request_stop(heard.stop)
        run.update_state("stopped")
        return Watched(run, [], interrupted=True)
    described = told = ended = False
    with display(console) as shown:
        try:
            started = start(run)
        except SftError as error:
            run.update_state("failed", error=str(error))
            raise
        warned = 0
        while True:
            codes = started.codes()
            for rank, code in enumerate(codes):
                if code and run.failure() is None:
                    run.fail(f"node {rank}: its program {ended_with(code)}")
            if None not in codes:
                break
            if heard.stop and not told:
                told = True
                run.request_stop(heard.stop)
                console.print("stopping: finishing the step and saving; Ctrl-C again ends at once")
            if heard.at_once and not ended:
                ended = True
                started.end_now()
            if not described and run.prepared.is_file():
                describe(run, console)
                described = True
            for line in run.state().get("set_aside", [])[warned:]:
                console.print(f"warning: {line}")
                warned += 1
            shown.show(run.state())
            time.sleep(POLL_S)
        if not run.ended:
            run.update_state("failed", error=run.failure() or "the node programs were killed")
        shown.show(run.state())
    return Watched(run, codes, interrupted=heard.stop is not None)


def describe(run: Run, console: Console) -> None:
    """Print the arithmetic of the run."""
    settings = run.settings()
    prepared = files.read_json(run.prepared)
    for line in [*prepared["said"], *provenance.since_it_began(run)]:
        console.print(f"  not as the run began: {line}")
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


def conclude(watched: Watched, console: Console, command: str = "") -> None:
    """Print how the run ended; `command` goes on with it, `make resume` unless it is another one.

    Raises RunFailed where it broke, UserError if the user can fix the cause.
    """
    run = watched.run
    command = command or run.command("resume")
    state = run.state()
    if state["status"] == "failed":
        failed = f"{run.path}: failed: {state['error']}"
        if watched.fixable:
            if run.is_saved:
                console.print(f"once that is fixed, {ending.goes_on(run, command)}:")
            raise UserError(failed)
        for name, lines in logs.ends(run).items():
            console.print(f"the end of {run.logs / name}.log:")
            for line in lines:
                console.print(f"  {line}", no_wrap=True, overflow="ellipsis" if console.is_terminal else None)
        console.print(f"the whole logs: `{run.command('logs')} LINES=0`")
        console.print(ending.goes_on(run, command))
        raise RunFailed(failed)
    if state["status"] == "stopped":
        console.print(ending.stopped(run, command))
        console.print(f"{'':>8}reason: {ending.reason(run)}")
        return
    report(run, console)


def report(run: Run, console: Console) -> None:
    """Print what a finished run achieved and where everything lies."""
    state = run.state()
    spent = state.get("seconds", {})
    console.print(f"\nfinished: {state.get('total_steps', 0):,} steps in {duration(sum(spent.values()))}")
    console.print(
        "          " + ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in spent.items() if seconds >= 0.5)
    )
    for line in view.beside_measured(run):
        console.print(line)
    for cut in budget.cuts(run):
        console.print(f"{'memory':>10}: {cut.what}; went on with {cut.now:,}")
    for line in run.unreadable():
        console.print(f"warning: {line}")
    for line in evaluation_lines(run.read(run.evaluation, {})):
        console.print(line)
    if state.get("wandb"):
        console.print(f"{'W&B':>10}: {state['wandb']}", highlight=False, markup=False, soft_wrap=True)
    for label, path in {"model": run.final, "metrics": run.metrics, "logs": run.logs, "all": run.path}.items():
        console.print(f"{label:>10}: {path}")


def evaluation_lines(results: dict[str, Any]) -> list[str]:
    """Return the lines that set the tuned model beside the base model, with sample answers of the tuned one."""
    if not all(isinstance(results.get(name), dict) and "samples" in results[name] for name in ("before", "after")):
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
