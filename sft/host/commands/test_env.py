"""`make test-env`: whether a run with these settings can start here; every problem comes with a remedy."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

from rich.console import Console

from sft.errors import SettingsError
from sft.host.check import Check, ChecksRecord
from sft.host.check_lines import of_level, raise_failures, report
from sft.host.doctor import machine, start, template
from sft.host.doctor.keep import keep
from sft.host.launch import launcher
from sft.host.launch.launcher import Launcher
from sft.run import typed_json
from sft.settings.fields import DEMO, TINY, Settings
from sft.settings.load import load
from sft.settings.variables import ENV_FILE


def test_env(console: Console, as_json: bool) -> None:
    """Print every check, or all of them as JSON. Raises RunFailed if one failed."""
    settings, of_settings = loaded()
    chosen = launcher.would_be(settings)
    checks = run_checks(settings, chosen, of_settings)
    if not as_json:
        report(checks, console)
        console.print("this machine is ready: `make train`, or `make demo` first")
        return
    found = list(checks)
    ready = not of_level("failure", found)
    record = ChecksRecord(ready=ready, launcher=chosen.name, checks=[check.record() for check in found])
    console.print(json.dumps(typed_json.content_of(record), indent=2), soft_wrap=True)
    raise_failures(found)


def loaded() -> tuple[Settings, list[Check]]:
    """Return the settings and the checks of them; in place of wrong ones those of a run that anything can start."""
    try:
        return load(), [Check("settings", "ok", f"{ENV_FILE} and the environment are in order")]
    except SettingsError as error:
        return Settings(model_name=TINY, dataset=DEMO), [
            Check.from_problem("settings", problem) for problem in error.problems
        ]


def run_checks(settings: Settings, chosen: Launcher, of_settings: list[Check]) -> Iterator[Check]:
    """Yield the checks of this machine, quick ones first, and those of the launcher."""
    yield from of_settings
    if of_level("failure", of_settings):  # what the run needs cannot be known
        yield from machine.checks(settings, chosen)
        return
    found: list[Check] = []
    with template.started(settings) as probing:
        parts = start.checks(settings, chosen), machine.checks(settings, chosen), chosen.checks(settings)
        for check in itertools.chain(*parts):
            if check.level != "failure" or not any(check.says_the_same(other) for other in found):
                found.append(check)
                yield check
        yield template.check(probing)
    if kept := keep(settings, chosen.name, found):
        yield kept
