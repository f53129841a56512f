"""`make soak`: kills, stops and full disks by the dozen. `python -m tests.soak [--seed N] [--kills N] …`."""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from .e2e import harm
from .e2e.project import Project

PER_RUN = 10  # so many harms one run takes before it is finished and compared


def main() -> None:
    """Do the harm, and end with exit code 1 at the first run that does not bear it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--stops", type=int, default=30)
    parser.add_argument("--full-disks", type=int, default=20)
    options = parser.parse_args()
    say(f"seed {options.seed}: {options.kills} kills, {options.stops} stops, {options.full_disks} full disks")
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        project = Project(Path(scratch))
        try:
            unharmed = harm.undisturbed(project)
            kinds: list[Callable[[harm.Harmed, int], None]] = [harm.Harmed.kill for _ in range(options.kills)]
            kinds += [harm.Harmed.stop for _ in range(options.stops)]
            rng.shuffle(kinds)
            for first in range(0, len(kinds), PER_RUN):
                harmed = harm.Harmed(project, f"harmed-{first}", rng, say)
                do(harmed, kinds[first : first + PER_RUN])
                harmed.finish(unharmed)
                say(f"{first + len(kinds[first : first + PER_RUN])} of {len(kinds)}: equal to the bit")
            for first in range(0, options.full_disks, PER_RUN):
                number = min(PER_RUN, options.full_disks - first)
                try:
                    with harm.small_disk(Path(scratch) / f"small-{first}", "24m") as runs:
                        harmed = harm.Harmed(project, f"squeezed-{first}", rng, say, RUNS_PATH=runs)
                        do(harmed, [harm.Harmed.fill_disk] * number)
                        harmed.finish(unharmed)
                        say(f"{first + number} of {options.full_disks} full disks: equal to the bit")
                except PermissionError as error:
                    say(f"full disks are left out: {error}")
                    break
        except BaseException:
            say(f"repeat it with --seed {options.seed}")
            raise
        finally:
            for process in project.processes():
                process.kill()


def do(harmed: harm.Harmed, kinds: list[Callable[[harm.Harmed, int], None]]) -> None:
    """Do some harm to one run, one after the other."""
    for i, kind in enumerate(kinds):
        kind(harmed, len(kinds) - i)


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
