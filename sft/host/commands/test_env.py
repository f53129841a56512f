"""`make test-env`: check this machine, docker and both containers; every problem comes with a remedy."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console

from sft.errors import SettingsError
from sft.host import folders, gpus, ownership
from sft.host.doctor import docker, machine, template
from sft.host.doctor.check import Check, report
from sft.host.launch import image, launcher
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
    if launcher.is_compose(settings):
        cards = gpus.visible() if settings.device != "cpu" else []
        yield from in_containers(Settings.of(settings, device="cuda" if cards else "cpu"))


def in_containers(settings: Settings) -> Iterator[Check]:
    """Yield the checks of docker, and those inside both nodes' containers."""
    failed = False
    for check in docker.before_build(settings):
        failed = failed or check.level == "failure"
        yield check
    if failed:
        return
    try:
        ownership.hand_over(settings, folders.make_folders(settings))
    except SettingsError as error:
        for problem in error.problems:
            yield Check("folders", "failure", *problem.split("; ", 1))
        return
    if not image.is_built():
        yield Check(
            "image", "failure", f"{image.name()} is missing, or was built from other code", "`make setup` builds it"
        )
        return
    if settings.device == "cuda":
        yield docker.gpus_inside(settings)
    yield from docker.inside(settings)
