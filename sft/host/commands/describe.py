"""The arithmetic of a run: its rows, tokens and steps, printed when its inputs are ready."""

from __future__ import annotations

from rich.console import Console

from sft.host import provenance
from sft.run import files
from sft.run.directory import Run
from sft.steps import Steps


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
