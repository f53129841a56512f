"""The arithmetic of a run: its rows, tokens and steps, printed when its inputs are ready."""

from __future__ import annotations

from rich.console import Console

from sft.host import provenance
from sft.run import typed_json
from sft.run.directory import Run
from sft.run.records import Prepared
from sft.steps import Steps


def describe(run: Run, console: Console) -> None:
    """Print the arithmetic of the run."""
    settings = run.settings()
    prepared = typed_json.read(run.prepared, Prepared)
    for line in [*prepared.said, *provenance.since_it_began(run)]:
        console.print(f"  not as the run began: {line}")
    for name, split in (("train", prepared.train), ("validation", prepared.validation)):
        cut = f", {split.cut_rows:,} cut at MAX_LENGTH={settings.max_length}" if split.cut_rows else ""
        tokens = f"{split.tokens:,} tokens, {split.target_tokens:,} of them targets"
        console.print(f"{name:>10}: {split.rows:,} rows, {tokens}, longest row {split.longest}{cut}", highlight=False)
    for line in prepared.template.said if prepared.template else []:
        console.print(f"{'template':>10}: {line}", highlight=False, markup=False)
    for line in Steps.of(settings, prepared.train.rows).describe(settings):
        console.print(f"{'':>10}  {line}")
