"""Choose the run that a command resumes, or make room for a new one."""

from __future__ import annotations

from pathlib import Path

from sft.errors import SettingsError, UserError, wrong
from sft.run import files
from sft.run.directory import Run
from sft.run.find import at_work, find, latest, newest_first
from sft.settings import rules, variables
from sft.settings.fields import Settings

OTHERS = 5  # other unfinished runs that are listed beside the one that is resumed


def requested(settings: Settings) -> Run | None:
    """Return RUN_NAME's run, or without a name the latest; None if there is none. Raises UserError if it is at work."""
    run = Run(settings.runs_path / settings.run_name) if settings.run_name else latest(settings.runs_path)
    if run is None or (not settings.run_name and run.not_yours()) or not run.is_there():
        return None
    run.wait_until_free()
    return run


# make train


def resumable(settings: Settings) -> tuple[Run | None, list[str]]:
    """Return the run to resume, or None if a new one is needed; and lines for the user.

    With RUN_NAME: the run of that name. It makes room for a new one if FRESH=1 sets it aside, or if it never trained a
    step. Without RUN_NAME: the newest run with exactly these settings, unless it is finished. Raises UserError if the
    run is still at work, and SettingsError if the named run is finished or has other settings.
    """
    requested(settings)
    if settings.run_name:
        return named(Run(settings.runs_path / settings.run_name), settings)
    if settings.fresh:
        return None, []
    run, said = newest_of(settings)
    last = latest(settings.runs_path)
    if run is None and last is not None and last.is_left_by_another():
        said = [f"not resuming {last.not_yours()}", *said]
    return run, said


def named(run: Run, settings: Settings) -> tuple[Run | None, list[str]]:
    """Return the run named RUN_NAME if it can be resumed, or None and a line that says what happened to it."""
    if not run.path.exists():
        return None, []
    if settings.fresh:
        refuse_inputs_in(run, settings)
        return None, [set_aside(run)]
    if not run.settings_file.is_file():
        if all(path.is_dir() or path.name.startswith(".") for path in run.path.rglob("*")):  # killed while it was made
            files.remove_folder(run.path)
            return None, []
        what = f"{run.path} already exists and holds no run"
        remedy = "use another name, or FRESH=1, which sets it aside"
        raise SettingsError([wrong("RUN_NAME", run.name, what, remedy)])
    before = run.settings()
    if run.state().status == "finished":
        what, remedy = "that run is finished", "use another name, or FRESH=1, which sets it aside"
        raise SettingsError([wrong("RUN_NAME", run.name, what, remedy)])
    differences = rules.differences(settings, before)
    if differences and not run.has_trained:
        files.remove_folder(run.path)
        changed = ", ".join(f"{name}={now}, not {then}" for name, now, then in rules.changed(settings, before))
        return None, [f"{run.path} had not trained a step and is replaced ({changed})"]
    if differences:
        raise SettingsError([*differences, f"{run.path}: `{run.command('resume')}` resumes it with its own settings"])
    return run, run.unreadable_files()


def refuse_inputs_in(run: Run, settings: Settings) -> None:
    """Raise SettingsError if the new run would train on files of the run that makes room for it."""
    for name in ("model_name", "dataset", "chat_template"):
        value = str(getattr(settings, name))
        if value and run.path.resolve() in variables.expanded(value).resolve().parents:
            what = f"FRESH=1 would set aside the run that {name.upper()}={value} belongs to"
            raise SettingsError([wrong("RUN_NAME", run.name, what, "use another name")])


def set_aside(run: Run) -> str:
    """Rename a run's directory, and return the line that says so."""
    number = 1
    while (aside := run.path.with_name(f"{run.name}.old-{number}")).exists():
        number += 1
    run.path.rename(aside)
    return f"FRESH=1: {run.path} is set aside as {aside}"


def newest_of(settings: Settings) -> tuple[Run | None, list[str]]:
    """Return the newest run with exactly these settings if it is worth resuming, otherwise None; and lines to print.

    If the newest run of all is unfinished and has other settings, a line names it. Raises UserError if the run to
    resume is at work.
    """
    said: list[str] = []
    for number, run in enumerate(newest_first(settings.runs_path)):
        if run.not_yours():
            continue
        try:
            before = run.settings()
        except UserError as error:
            if number == 0:
                said.append(str(error))
            continue
        changed = rules.changed(settings, before)
        if changed:
            if number == 0 and is_worth_resuming(run):
                what = ", ".join(f"{name}={then}, here {now}" for name, now, then in changed)
                said.append(f"{run.path} is unfinished and has other settings ({what})")
                said.append(f"  a new run begins; `{run.command('resume')}` resumes that one")
        elif run.state().status == "finished":
            return None, said
        elif is_worth_resuming(run):
            run.wait_until_free()
            return run, run.unreadable_files()
    return None, said


def is_worth_resuming(run: Run) -> bool:
    """Tell whether a run is unfinished and did not fail before its first step."""
    status = run.state().status
    return status != "finished" and (run.has_trained or status != "failed")


# make resume


def to_resume(runs: Path, name: str) -> tuple[Run, list[str]]:
    """Return the named run, or the newest unfinished one that is not at work; and lines about the others.

    Raises UserError if there is no such run, or if the named one is finished or at work.
    """
    if name:
        run = find(runs, name)
        run.wait_until_free()
        if run.state().status == "finished":
            again = f"`make train FROM={run.name}` repeats it"
            if run.final.is_dir():
                again += f", `{run.command('evaluate')}` evaluates it again"
            raise UserError(f"{run.path}: is finished; {again}")
        return run, []
    unfinished = [run for run in newest_first(runs) if is_worth_resuming(run) and (run.ended or not run.is_held())]
    blocked = {run.path: why for run in unfinished if (why := obstacle(run))}
    waiting = [run for run in unfinished if run.path not in blocked]
    last = latest(runs)
    newer = unfinished[: unfinished.index(waiting[0])] if waiting else unfinished
    passed_over = [blocked[run.path] for run in newer]
    if last and last.is_left_by_another() and last.path not in blocked:  # a run that this user cannot even read
        passed_over.append(last.not_yours())
    if not waiting:
        working = "".join(f"; {run.name} is at work: `{run.command('monitor')}`" for run in at_work(runs)[:OTHERS])
        nothing = f"{runs}: no unfinished run to resume{working}; `make train` starts one"
        raise UserError("\n".join([nothing, *passed_over[:OTHERS]]))
    said = [f"not resuming {line}" for line in passed_over[:OTHERS]]
    names = [f"{run.name} (step {run.saved_step() or 0})" for run in waiting[1:]]
    if names:
        more = f" and {len(names) - OTHERS} more" if len(names) > OTHERS else ""
        said.append(f"other runs are unfinished too (NAME=… resumes one of them): {', '.join(names[:OTHERS])}{more}")
    return waiting[0], said


def obstacle(run: Run) -> str:
    """Return why this user or this version cannot resume a run; "" if nothing prevents it."""
    try:
        run.settings()
    except UserError as error:
        return run.not_yours() or str(error)
    return run.not_yours()
