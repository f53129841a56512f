"""`make evaluate`: evaluate the base model and the final model of a finished run again."""

from __future__ import annotations

from rich.console import Console

from sft.errors import UserError
from sft.host.commands.report import conclude, evaluation_lines
from sft.host.commands.watch import watch
from sft.host.launch import signals
from sft.host.launch.decide import decide
from sft.run import find, lifecycle, typed_json
from sft.settings.fields import Settings

# The settings that an evaluation takes from the user; the others are the run's own.
OF_NOW = ("eval_limit", "eval_answer", "eval_batch_size", "max_new_tokens", "launcher")


def evaluate(written: Settings, name: str, console: Console) -> None:
    """Evaluate a run's base and final model again, with the present evaluation settings. Raises SftError.

    The run itself does not change. Its earlier results are replaced only once the new ones are complete.
    """
    run = find.find(written.runs_path, name)
    with run.claim():
        if not run.final.is_dir():
            raise UserError(f"{run.path}: has no final model yet; `{run.command('resume')}` finishes the run")
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
    again = run.command("evaluate")
    if watched.run.state().status == "stopped":
        kept = "the earlier results are kept" if run.evaluation.is_file() else "there are no results"
        console.print(f"stopped: {kept}; `{again}` evaluates the run from the beginning")
        return
    if watched.run.state().status == "failed":
        conclude(watched, console, again)
    for line in evaluation_lines(results):
        console.print(line)
    for label, path in {"results": run.evaluation, "logs": watched.run.logs}.items():
        console.print(f"{label:>10}: {path}")
