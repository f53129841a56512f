"""Whatever happens to a run, nothing that was saved is lost, and the run that goes on is the run it would have been.

`make soak` does the same many more times.
"""

import random

import pytest

from . import harm
from .project import Project

pytestmark = pytest.mark.real

SEED = 1
KILLS, STOPS, FULL_DISKS = 4, 3, 2


@pytest.fixture(scope="module")
def unharmed(project: Project):
    return harm.undisturbed(project)


@pytest.mark.timeout(1800)
def test_killed_and_stopped_at_random_the_run_ends_with_the_same_bits(project, unharmed):
    rng = random.Random(SEED)
    harmed = harm.Harmed(project, "harmed", rng, print)
    kinds = ["kill"] * KILLS + ["stop"] * STOPS
    rng.shuffle(kinds)
    for i, kind in enumerate(kinds):
        getattr(harmed, kind)(len(kinds) - i)
    harmed.finish(unharmed)


def test_full_disks_lose_nothing_that_was_saved(project, unharmed, tmp_path):
    try:
        with harm.small_disk(tmp_path / "small", "24m") as runs:
            harmed = harm.Harmed(project, "squeezed", random.Random(SEED), print, RUNS_PATH=runs)
            for left in range(FULL_DISKS, 0, -1):
                harmed.fill_disk(left)
            harmed.finish(unharmed)
    except PermissionError as error:
        pytest.skip(str(error))
