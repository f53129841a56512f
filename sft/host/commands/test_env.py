"""`make test-env`: check this machine and what the launcher needs; every problem comes with a remedy."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from sft.errors import SettingsError
from sft.host.check import Check, report
from sft.host.doctor import machine, template
from sft.host.launch import launcher
from sft.settings.fields import Settings
from sft.settings.load import load
from sft.settings.variables import ENV_FILE


def test_env(console: Console) -> None:
    """Print every check as it ends. Raises RunFailed if one failed."""
    report(run_checks(), console)
    console.print("this machine is ready: `make train`, or `make demo` first")


def run_checks() -> Iterator[Check]:
    """Yield the checks of this machine, quick ones first."""
    try:
        settings = load()
        of_template: Settings | None = settings
        yield Check("settings", "ok", f"{ENV_FILE} and the environment are in order")
    except SettingsError as error:
        settings, of_template = Settings(), None
        for problem in error.problems:
            yield Check("settings", "failure", problem, f"fix it in {ENV_FILE} or the environment")
    with template.started(of_template) as probing:
        for check in machine.CHECKS:
            yield check(settings)
        yield template.check(probing)
    yield from launcher.would_be(settings).checks(settings)
