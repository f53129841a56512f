"""The report at the end of a run: its results, and where its files are."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from sft.errors import RunFailed, UserError
from sft.host.commands import ending, logs
from sft.host.commands.watch import Watched
from sft.host.plan import view
from sft.host.rows import looks
from sft.host.rows.words import row_counts
from sft.host.screen import duration, labelled
from sft.nouns import counted
from sft.run import budget
from sft.run.directory import Run
from sft.run.records import Evaluation, Prepared, Results


def conclude(watched: Watched, console: Console, command: str = "") -> None:
    """Print how the run ended. `command` is what continues it: `make resume` by default.

    Raises RunFailed if the run failed, or UserError if the user can fix the cause.
    """
    run = watched.run
    command = command or run.command("resume")
    state = run.state()
    if failure := watched.failure:
        failed = f"{run.path}: failed: {failure.reason}"
        if failure.is_fixable:
            if run.is_saved:
                console.print(f"once that is fixed, {ending.how_to_continue(run, command)}:")
            raise UserError(failed)
        for name, lines in logs.ends(run).items():
            console.print(f"the end of {run.logs / name}.log:")
            for line in lines:
                console.print(f"  {line}", no_wrap=True, overflow="ellipsis" if console.is_terminal else None)
        console.print(f"the whole logs: `{run.command('logs')} LINES=0`")
        console.print(ending.how_to_continue(run, command))
        raise RunFailed(failed, failure.kind)
    if state.status == "stopped":
        console.print(ending.stopped(run, command))
        labelled(console, "reason", ending.reason(run))
        return
    report(run, console)


def report(run: Run, console: Console) -> None:
    """Print the results of a finished run, and where its files are."""
    state = run.state()
    spent = state.seconds
    console.print(f"\nfinished: {counted(state.total_steps, 'step')} in {duration(sum(spent.values()))}")
    labelled(console, "", ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in spent.items() if seconds >= 0.5))
    prepared = run.record(run.prepared, Prepared)
    if prepared and prepared.row_counts:
        labelled(console, "rows", row_counts(prepared.row_counts))
    if comparison := view.against_measured(run):
        labelled(console, "planned", comparison)
    for cut in budget.cuts(run):
        labelled(console, "memory", f"{budget.in_words(cut)}; continued with {cut.limit:,}")
    for line in run.unreadable():
        console.print(f"warning: {line}")
    show_evaluation(run.results(), console)
    for label, line in looks.of_results(prepared.looks if prepared else None, run.results().after is not None):
        labelled(console, label, line)
    if state.wandb:
        console.print(f"{'W&B':>10}: {state.wandb}", highlight=False, markup=False, soft_wrap=True)
    outputs = {"model": run.final, "metrics": run.metrics, "answers": run.answers, "logs": run.logs, "all": run.path}
    for label, path in outputs.items():
        if path.exists():  # without an evaluation there are no answers
            console.print(f"{label:>10}: {path}")


def show_evaluation(results: Evaluation, console: Console) -> None:
    """Print a table of the model before and after training, and sample answers of the tuned model."""
    lines = evaluation_lines(results)
    for line in lines:
        console.print(line)
    for sample in results.after.samples if results.after and lines else []:
        mark = "right" if sample.correct else "wrong"
        labelled(console, "asked", one_line(sample.prompt))
        answer = one_line(sample.answer) or "nothing"
        labelled(console, "answered", f"{answer} ({mark}; expected {one_line(sample.reference)})")
        console.print()


def evaluation_lines(results: Evaluation) -> list[str]:
    """Return a table of the model before and after training."""
    before, after = results.before, results.after
    if not (before and after):
        return []
    if not after.rows:
        return ["", "No row is held out, so nothing was evaluated; EVAL_SPLIT names rows to evaluate on.", ""]
    lines = [
        "",
        f"{'':<28}{'before':>10}{'after':>10}",
        f"{'validation loss':<28}{shown(before.loss, '.4f')}{shown(after.loss, '.4f')}",
    ]
    if after.perplexity is not None:
        return [
            *lines,
            f"{'perplexity':<28}{shown(before.perplexity, '.2f')}{shown(after.perplexity, '.2f')}",
            "The held-out rows are texts: they have no answers to score.",
            "",
        ]
    lines += [
        f"{results.exact_match_name:<28}{shown(before.exact_match)}{shown(after.exact_match)}",
        f"{'last number right':<28}{shown(before.exact_match_flexible)}{shown(after.exact_match_flexible)}"
        f"   of {counted(after.answers, 'held-out row')}",
    ]
    lines += part_lines(before, after)
    if before.cut_answers or after.cut_answers:
        cut = [share(results.cut_answers, results.answers) for results in (before, after)]
        lines.append(f"{'cut at MAX_NEW_TOKENS':<28}{shown(cut[0])}{shown(cut[1])}")
    return [*lines, ""]


def part_lines(before: Results, after: Results) -> Iterator[str]:
    """Yield the loss and the exact match on each data set, if there are several."""
    for old, new in zip(before.parts, after.parts, strict=False):
        yield one_line(new.name, 80)
        losses = f"{shown(old.loss, '.4f')}{shown(new.loss, '.4f')}"
        yield f"{'  validation loss':<28}{losses}   on {counted(new.rows, 'row')}"
        if new.answers:  # texts have none
            shares = f"{shown(old.exact_match)}{shown(new.exact_match)}"
            yield f"{'  exact match':<28}{shares}   of {counted(new.answers, 'held-out row')}"


def share(part: int, whole: int) -> float | None:
    """Return a part of a whole; None if the whole is nothing."""
    return part / whole if whole else None


def shown(value: float | None, form: str = ".1%") -> str:
    """Return a number in a column of ten characters, `-` if it could not be measured."""
    return f"{'-' if value is None else format(value, form):>10}"


def one_line(text: str, width: int = 160) -> str:
    """Return a text on one line, cut to `width` characters."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
