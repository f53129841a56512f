"""What every tier shares: its marker and time limit, hypothesis' profiles, and the end of what a failed test leaves.

docs/testing.md says what each tier is for and what it costs.
"""

from __future__ import annotations

import contextlib
import gc
import os
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from . import warm

HERE = Path(__file__).parent
# The most seconds that a test may take with the fixtures that it is the first to use, beside other work on the machine.
TIMEOUTS_S = {
    "unit": 120, "torch": 900, "e2e": 600, "compose": 1500, "slurm": 600, "hosts": 600, "default": 2400, "machine": 600,
}  # fmt: skip
# What takes longest comes first, so that no process is left alone with it at the end. The first three mostly wait, for
# Slurm, lost networks and containers, while others compute.
LONGEST = (
    "slurm/test_jobs.py", "hosts/test_hosts.py", "compose",
    "e2e/test_several_gpus.py", "e2e/test_harm.py", "default/test_default_environment.py", "e2e/test_failure.py",
    "e2e/test_same_result.py",
    "e2e/test_stop_and_resume.py", "e2e/test_end_marks.py", "e2e/test_models.py", "e2e/test_lora.py",
    "e2e/test_demo.py",
    "unit/test_wrong_types.py", "unit/test_random_rows.py", "unit/test_wrong_settings.py", "unit/test_records.py",
)  # fmt: skip
OWN_STACKS = ("test_root.py", "test_two_clones.py")  # files of `compose` that do not use the stack of the others
MARK = "SFT_TEST_PROCESS"  # in the environment of every process that the tests start

# The same examples every time, so that a test fails for what was changed and not by chance; "thorough" draws new ones.
settings.register_profile(
    "usual", max_examples=200, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile(
    "thorough", settings.get_profile("usual"), max_examples=2000, derandomize=False, print_blob=True
)
settings.load_profile("usual")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name values that differ from process to process, such as gzip's with the time in them, by their argument."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: place_of(str(item.path.relative_to(HERE))))
    for item in items:
        tier = item.path.relative_to(HERE).parts[0]
        item.add_marker(tier)
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TIMEOUTS_S[tier]))


def skip_tier(items: list[pytest.Item], tier: str, why_not: Callable[[], str | None]) -> None:
    """Skip the tests of a tier if it cannot run here, with the reason and the remedy."""
    ours = [item for item in items if tier in item.path.parts]
    if reason := why_not() if ours else None:
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=reason))


def place_of(file: str) -> int:
    """Return when a file's turn comes; of files with the same number, first come, first served."""
    return next((place for place, name in enumerate(LONGEST) if file.startswith(name)), len(LONGEST))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """Give each process whole files, as `--dist loadfile` does, and one process those of `compose`."""
    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


class Scheduling(LoadFileScheduling):
    """Like `--dist loadfile`, but files of `compose` share one stack, with an image, data and a model."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "compose" if file.startswith("tests/compose/") and not file.endswith(OWN_STACKS) else file


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while test files are imported; what they have made stays, and is not looked at again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    """Start what forks the ranks of end-to-end tests, once for all processes of pytest-xdist."""
    if not hasattr(config, "workerinput") and os.environ.get(warm.NAME) != "0":
        config.add_cleanup(warm.Server().end)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Leave the programs of a test as they are if it is marked `real`, or in another tier than e2e and slurm."""
    forked = not item.get_closest_marker("real") and any(item.get_closest_marker(tier) for tier in ("e2e", "slurm"))
    with contextlib.nullcontext() if forked else warm.left_out():
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def marked() -> Iterator[None]:
    """Mark every process that is started from here on, and end those that are left at the end."""
    os.environ[MARK] = uuid.uuid4().hex
    yield
    end_processes()


# A hook and not a fixture: a test whose module's fixture fails never gets to its own fixtures.
@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        end_processes()
    return report


def end_processes() -> None:
    """End every process that the tests of this process have started, and those that they have started."""
    mark = os.environ.get(MARK)
    while left := [process for process in psutil.process_iter() if mark and is_marked(process, mark)]:
        for process in list(left):  # a child that is starting its program has no environment for a moment
            with contextlib.suppress(psutil.Error):
                left += process.children(recursive=True)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=10)


def is_marked(process: psutil.Process, mark: str) -> bool:
    """Tell whether a process has the mark, and is not only waiting for its parent to look at its exit code."""
    with contextlib.suppress(psutil.Error):
        return process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
    return False
