"""The arithmetic of a run: its rows, tokens and steps, printed when its inputs are ready."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from sft.host import provenance
from sft.host.rows import looks
from sft.host.rows.columns import columns
from sft.host.rows.parts import parts
from sft.host.rows.summary import unusual
from sft.host.rows.texts import not_applied, noun
from sft.host.rows.words import answers, row_counts
from sft.host.screen import labelled
from sft.nouns import counted
from sft.run import typed_json
from sft.run.directory import Run
from sft.run.records import Prepared, Split
from sft.settings.fields import Settings
from sft.steps import Steps


def describe(run: Run, console: Console) -> None:
    """Print the arithmetic of the run."""
    prepared = typed_json.read(run.prepared, Prepared)
    for line in [*prepared.said, *provenance.since_it_began(run)]:
        console.print(f"  not as the run began: {line}")
    for label, line in lines(prepared, run.settings(), trains=run.evaluated is None):
        labelled(console, label, line)


def lines(prepared: Prepared, settings: Settings, trains: bool) -> Iterator[tuple[str, str]]:
    """Yield a label and a line for everything that there is to say; of the steps only if the run trains."""
    splits = (("train", prepared.train), ("validation", prepared.validation))
    for line in prepared.unused:
        yield "warning", line
    for name, split in splits:
        yield name, ", ".join(counts(split, settings.max_length))
        if split.answers:
            yield "", answers(split.target_answers, split.answers)
    if prepared.row_counts:
        yield "rows", row_counts(prepared.row_counts)
    if prepared.train.kind == "texts" and (line := not_applied(settings)):
        yield "settings", line
    for line in parts(prepared.parts):
        yield "data set", line
    for line in columns(prepared.train, prepared.validation):
        yield "columns", line
    for line in prepared.splits.said if prepared.splits else []:
        yield "files", line
    for name, split in splits:
        for label, line in unusual(split, settings):
            if label == "warning":
                yield label, f"{name}: {line}; look at them with `make rows`"
    yield from looks.lines(prepared.looks)
    for line in prepared.template.said if prepared.template else []:
        yield "template", line
    for line in Steps.of(settings, prepared.train.rows).describe(settings) if trains else []:
        yield "", line


def counts(split: Split, max_length: int) -> Iterator[str]:
    """Yield what the line of a split says of it."""
    yield counted(split.conversations or split.rows, noun(split))
    is_split = split.conversations not in (0, split.rows)
    if is_split:
        yield counted(split.rows, "sequence")
    if split.rows:
        yield counted(split.tokens, "token")
        yield f"{split.target_tokens:,} of them targets"
        yield f"longest {'sequence' if is_split else 'row'} {split.longest}"
    if split.cut_rows:
        yield f"{counted(split.cut_rows, 'row')} cut at MAX_LENGTH={max_length} ({split.cut_rows / split.read:.1%})"
    if split.dropped_sequences:
        yield f"{split.dropped_sequences:,} more sequences left out, as no target is left within it"
    for reason, number in split.dropped.items():
        yield f"{counted(number, 'row')} dropped ({number / split.read:.1%}): {reason}"
    if split.messages_left_out:
        yield f"{counted(split.messages_left_out, 'message')} after the last answer of a row left out"
