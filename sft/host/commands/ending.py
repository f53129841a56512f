"""Messages about a run that ended early: where it stopped, what continues it, and who asked for it."""

from __future__ import annotations

import re

from sft.run import checkpoints
from sft.run.directory import Run
from sft.run.records import State

TIME_LIMIT, PREEMPTED = "time limit", "preempted"  # why the nodes of a job are wanted back
BY_USER = "inv stop"
WHO = {
    TIME_LIMIT: "the time limit of its job",
    PREEMPTED: "a job with a higher priority needed its nodes",
    "SIGINT": "Ctrl-C",
    "SIGTERM": "it was asked to end (SIGTERM), as `kill`, `timeout` and a shutdown do",
    "SIGHUP": "its terminal was closed",
    BY_USER: "`make stop`",
    "a signal to the ranks": "one of its ranks was asked to end",
}


def stopping(state: State) -> str:
    """Return what a run does before it stops, behind "stopping"; "" if it need not finish anything."""
    if state.status == "training" or (state.status == "evaluating" and state.evaluating == "during"):
        return ": finishing the step and saving"
    return ": finishing what is being saved" if state.status == "saving" else ""


def stopped(run: Run, command: str) -> str:
    """Return the line that says where a run stopped, what is saved, and which command continues it."""
    step, total, saved = run.state().step, run.state().total_steps, run.saved_step()
    if run.final.is_dir():
        return f"stopped after the last step, with the final model written; `{command}` does the rest"
    if not run.has_trained:
        return f"stopped before its first step; `{command}` starts it again"
    if saved == step:
        name = checkpoints.name_of(step)
        return f"stopped after step {step} of {total}, saved as {name}; `{command}` continues from there"
    return f"stopped after step {step} of {total}; {how_to_continue(run, command)}"


def how_to_continue(run: Run, command: str) -> str:
    """Return where a run continues, and with which command."""
    if run.evaluated:
        return f"`{command}` evaluates the run from the beginning"
    saved = run.saved_step()
    if run.final.is_dir():
        return f"`{command}` does the rest: the final model is written"
    if saved is not None:
        return f"`{command}` continues from its newest checkpoint, after step {saved}"
    return f"`{command}` starts it over: it has no checkpoint" if run.has_trained else f"`{command}` starts it again"


def reason(run: Run) -> str:
    """Return why a run was asked to stop."""
    said = run.stop_reason() or "a signal to the ranks"
    if match := re.fullmatch(r"a signal to node (\d+)", said):
        return f"node {match[1]} was asked to end, as `docker compose stop` does"
    if match := re.fullmatch(r"the end of what started node (\d+)", said):
        return f"the program that had started node {match[1]} has ended"
    return WHO.get(said, said)
