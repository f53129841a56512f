"""`make demo` to a finished run on each kind of bare machine: `.venv/bin/python -m tests.machine.demos [KIND …]`.

It needs a network and takes minutes and gigabytes for each. The last lines are a table with the times.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.machine import containers, python_mirror
from tests.machine.containers import Machine, connected

TIMEOUT_S = 1800
KINDS = ("bookworm", "trixie", "older")


def machine(kind: str, folder: Path) -> Machine:
    """Return a machine of a kind. `older`: its Python is an older one, and uv's Pythons come from a mirror."""
    if kind != "older":
        return connected(Machine(kind))
    older = containers.older_python()
    if older is None:
        raise SystemExit(f"no Python {' or '.join(containers.OLDER)} here; pyenv or uv installs one")
    mirror = python_mirror.make(folder, f"{sys.prefix}/bin/uv")
    found = connected(Machine("trixie", python=str(older), environment=mirror.environment("/mirror")))
    found.mounts |= {"/mirror": mirror.folder, str(older.parents[1]): older.parents[1]}
    found.mounts |= {str(folder): folder for folder in python_mirror.library_folders()}
    return found


def main() -> None:
    """Run the demo on every machine, and print what it printed, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=KINDS, choices=KINDS, help="default: all")
    table = []
    for kind in parser.parse_args().kinds:
        with tempfile.TemporaryDirectory() as folder:
            project = containers.copy(Path(folder, "sft"))
            started = time.monotonic()
            mirror = Path(folder, "mirror")
            mirror.mkdir()
            done = machine(kind, mirror).make(project, "demo", timeout_s=TIMEOUT_S)
            print(done.stdout, flush=True)
            result = "finished" if done.returncode == 0 and "\nfinished: " in done.stdout else "FAILED"
            table.append(f"{kind:<10} {result:<9} {time.monotonic() - started:4.0f} s")
    print("\n".join(table))
    sys.exit(any("FAILED" in line for line in table))


if __name__ == "__main__":
    if reason := containers.why_not():
        raise SystemExit(reason)
    os.environ.pop("MAKE_SETTINGS", None)
    main()
