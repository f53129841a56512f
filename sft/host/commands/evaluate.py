"""`make evaluate`: evaluate the base model and the final model of a finished run again."""

from __future__ import annotations

from rich.console import Console

from sft.errors import SettingsError, UserError, wrong
from sft.host.commands import ending
from sft.host.commands.report import conclude, show_evaluation
from sft.host.commands.watch import watch
from sft.host.launch import signals
from sft.host.launch.decide import decide
from sft.run import files, find, lifecycle, typed_json
from sft.run.directory import Run
from sft.settings import mixture, rules, variables
from sft.settings.fields import Settings, marked
from sft.settings.kinds import OF_DATA

# The settings that an evaluation takes from the user; the others are the run's own.
OF_NOW = (*lifecycle.OF_ANSWERS, "eval_batch_size", "launcher")


def evaluate(written: Settings, name: str, console: Console) -> None:
    """Evaluate a run's base and final model again, with the present evaluation settings. Raises SftError.

    The run itself does not change. Its earlier results are replaced only once the new ones are complete.
    """
    if written.launcher == "slurm":
        remedy = "run it in a job: `salloc --gpus=1 make evaluate LAUNCHER=local`"
        raise SettingsError([wrong("LAUNCHER", "slurm", "an evaluation is not submitted", remedy)])
    run = find.find(written.runs_path, name)
    with run.claim():
        if not run.final.is_dir() and run.state().status == "finished":
            again = f"`make train FROM={run.name}` trains it again"
            raise UserError(f"{run.final}: is gone, though the run is finished; put it back, or {again}")
        if not run.final.is_dir():
            raise UserError(f"{run.path}: has no final model yet; `{run.command('resume')}` finishes the run")
        refuse_others(written, run)
        taken = {name: getattr(written, name) for name in OF_NOW}
        decision = decide(Settings.of(run.settings(), **taken, evaluate=True), opened=True)
        for line in decision.lines:
            console.print(line)
        decision = decision.prepared(console)
        with signals.noted() as heard:
            watched = watch(lifecycle.evaluate_again(run, decision.settings), decision.launcher.start, console, heard)
            results = watched.run.results()
            if watched.run.state().status == "finished":
                typed_json.write(run.evaluation, results)
                take_answers(run, watched.run)
    again = run.command("evaluate")
    if watched.run.state().status == "stopped":
        kept = "the earlier results are kept" if run.evaluation.is_file() else "there are no results"
        console.print(f"stopped: {kept}; {ending.how_to_continue(watched.run, again)}")
        return
    if watched.run.state().status == "failed":
        conclude(watched, console, again)
    show_evaluation(results, console)
    for label, path in {"results": run.evaluation, "answers": run.answers, "logs": watched.run.logs}.items():
        if path.exists():
            console.print(f"{label:>10}: {path}")


def refuse_others(written: Settings, run: Run) -> None:
    """Raise SettingsError for what this call asks of an evaluation and the run decides: its figures would be others.

    `.env` may say something else: it is about the next run.
    """
    given = variables.around(sorted({*marked(OF_DATA), "precision"}))
    before = run.settings()
    final = f"`make train MODEL_NAME={run.final}` evaluates that model before its first step"
    problems = []
    for name, now, then in rules.compared(written, before, list(given)):
        if name == "DATASETS" and now:
            now = mixture.title(written)
        own = mixture.title(before) if name in ("DATASET", "DATASETS") else then
        what = f"{run.name} is evaluated with its own, {own}" if own != "" else f"{run.name} is evaluated without"
        problems.append(wrong(name, now, what, f"leave it out, or give it to a new run: {final}"))
    if problems:
        raise SettingsError(problems)


def take_answers(run: Run, again: Run) -> None:
    """Put the answers of a new evaluation in place of the earlier ones, by a rename: that needs no space on the disk.

    If they could not be written, which a line has said, the earlier ones go: they do not belong to the new results.
    """
    if again.answers.is_file():
        again.answers.replace(run.answers)
    else:
        run.answers.unlink(missing_ok=True)
    files.flush(run.path)
