"""Open a run: write every record that its directory holds before its nodes start. Nothing else writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sft import hostfile, template_files
from sft.errors import shown
from sft.host import provenance
from sft.host.launch.decide import Decision
from sft.host.plan import planner
from sft.run import budget, files, lifecycle, unfinished
from sft.run.directory import Run
from sft.settings import deepspeed, rules
from sft.settings.stages import Decided


@contextmanager
def open_run(decision: Decision, say: Callable[[str], None]) -> Iterator[Run]:
    """Yield the run to resume, or a new one, ready for its nodes. Until this ends, no other program can start it.

    Raises SftError.
    """
    settings = decision.settings
    try:
        with lifecycle.alone(settings.runs_path):
            run, said = unfinished.resumable(settings)
            # Read once: what is recorded as the file's content is what DeepSpeed's configuration was made from.
            file, changed = provenance.deepspeed_file(run, settings) if run else (deepspeed.read(settings), [])
            config = deepspeed.configuration(settings, file)
            if run:
                before = run.settings()
                claim = run.claim()
                said += [how_it_starts(run), *adjusted(settings, before), *changed]
                said += lifecycle.reopen(run, before, settings, config, new_config=bool(changed) and not run.is_saved)
            else:
                nodes = hostfile.hostfile(settings.nodes, settings.gpus_per_node, settings.host_names)
                run = lifecycle.create(settings, nodes, config)
                claim = run.claim()
                said.append(f"run {run.path}")
            keep_template(run, settings)
            provenance.note_project(run, file)
            planner.freeze(decision.plan, run)
            said += budget.revise(run, decision.written)
    except OSError as error:
        raise lifecycle.not_writable(settings, error) from None
    with claim:
        for line in said:
            say(line)
        yield run


def keep_template(run: Run, settings: Decided) -> None:
    """Copy the file that CHAT_TEMPLATE names: a container does not see it, and it may change before the run resumes."""
    path = template_files.file_of(settings)
    if path and not (run.is_saved and run.chat_template.is_file()):
        files.write_whole(run.chat_template, template_files.read(path, settings.chat_template))


def how_it_starts(run: Run) -> str:
    """Return the line that says where an unfinished run resumes."""
    step = run.saved_step()
    if run.final.is_dir():
        return f"resuming {run.path}: its final model is written; what is left will be done"
    if step is not None:
        return f"resuming {run.path} after step {step} (FRESH=1 starts over)"
    if run.has_trained:
        return f"resuming {run.path}: no checkpoint is left: starting over"
    return f"run {run.path}: starting again; it had not trained a step"


def adjusted(settings: Decided, before: Decided) -> list[str]:
    """Return a line for every setting that this resume changes, of those that may change."""
    return [f"  {name}={shown(now)}, which was {shown(then)}" for name, now, then in rules.adjusted(settings, before)]
