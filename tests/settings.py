"""Settings as a run's directory holds them, for tests of what comes after the decisions."""

from __future__ import annotations

from typing import Any

from sft.host.launch.decide import Decision
from sft.host.launch.local import Local
from sft.settings.fields import Settings
from sft.settings.kinds import OnDevice
from sft.settings.load import load
from sft.settings.stages import Decided, Effective, Resolved, resolve, without_plan


def decided(on: OnDevice = "cpu", /, **given: Any) -> Decided:
    """Return the defaults and what is given, decided for this machine's processes as nodes; no `.env` is read."""
    return without_plan(resolve(load(None, **given), on, "local"))


def decision(settings: Decided) -> Decision:
    """Return the decision of a run with these settings, without a plan, on a CPU."""
    return Decision(settings, settings, Local())


def refused(written: Settings, resolved: Resolved, decided: Decided) -> None:
    """Nothing calls this: `make check` fails if mypy no longer refuses settings of too early a stage."""
    without_plan(written)  # type: ignore[arg-type]
    Decision(written, resolved, Local())  # type: ignore[arg-type]
    effective: Effective = decided  # type: ignore[assignment]
    del effective
