"""`budget.json`: the tokens or rows per micro-step that fit, written when a rank runs out of memory.

`settings.json` stays what the user or the plan decided; the ranks train with what is held here where that is less. It
holds for the rest of the run and whenever it is resumed, until the user asks for another budget. The global batch stays
the same, and so does the result up to rounding.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sft.errors import OUT_OF_MEMORY
from sft.run import files
from sft.run.directory import Run
from sft.settings.fields import Settings
from sft.settings.stages import Decided, Held

TOKENS, ROWS = "max_tokens_per_micro_step", "batch_size"  # what is cut: of packed micro-steps, of padded ones
MULTIPLE = 256  # tokens that a cut budget is rounded down to


@dataclass(frozen=True)
class Cut:
    """One micro-step that did not fit, and the budget from then on."""

    setting: str  # TOKENS or ROWS
    asked: int  # what settings.json says of it
    tried: int  # tokens or rows of the largest micro-step of the step that did not fit
    now: int  # the budget since
    place: str  # as in "step 17"
    where: str  # forward, backward or optimizer
    rank: int

    @property
    def what(self) -> str:
        """What happened, in words."""
        return what(self.setting, self.tried, self.place, self.where, self.rank)


def what(setting: str, tried: int, place: str, where: str, rank: int) -> str:
    """Return in words where a rank ran out of memory, and at what."""
    unit = "tokens" if setting == TOKENS else f"row{'s' * (tried > 1)}"
    return f"{OUT_OF_MEMORY} in {place} ({where}, rank {rank}) at {tried:,} {unit} a micro-step"


def smaller(setting: str, tried: int, longest: int) -> int | None:
    """Return the budget after one that did not fit: three quarters of it; None where it cannot be smaller.

    `longest` are the tokens of the run's longest row, which has to fit.
    """
    share = tried * 3 // 4
    now = max(longest, share // MULTIPLE * MULTIPLE) if setting == TOKENS else max(1, share)
    return now if now < tried else None


def cuts(run: Run) -> list[Cut]:
    """Return the cuts of a run, oldest first."""
    names = Cut.__dataclass_fields__.keys()
    found = run.read(run.path / "budget.json", [])
    return [Cut(**cut) for cut in found if isinstance(cut, dict) and cut.keys() == names]


def write(run: Run, found: list[Cut]) -> None:
    """Write the cuts of a run."""
    files.write_json(run.path / "budget.json", [asdict(cut) for cut in found])


def held(run: Run, settings: Decided) -> Held:
    """Return the settings that a run's ranks train with: its own ones, with the budget that memory allows."""
    limits: dict[str, int] = {cut.setting: cut.now for cut in cuts(run)}
    changes: dict[str, Any] = {}
    if TOKENS in limits:
        changes[TOKENS] = min(limits[TOKENS], settings.max_tokens_per_micro_step)
    if ROWS in limits:
        whole = {"global_batch_size": settings.sequences_per_step, "gradient_accumulation_steps": 1}
        changes |= whole | {ROWS: min(limits[ROWS], settings.batch_size)}
    return Held.of(settings, **changes)


def revise(run: Run, asked: Settings) -> list[str]:
    """Forget the cuts of a run that is opened with another budget than did not fit; `auto` is no other one.

    Return a line for the last one that holds.
    """
    found = cuts(run)
    kept = [cut for cut in found if getattr(asked, cut.setting) in (None, cut.asked)]
    if kept != found:
        write(run, kept)
    return [f"{cut.what} before: goes on with {cut.now:,}; {cut.setting.upper()} sets another" for cut in kept[-1:]]
