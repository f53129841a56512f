"""Bring `.venv` up to date with pyproject.toml and constraints.txt. The bootstrap starts it in `.venv`.

torch comes first and alone, because a plain `pip install` of anything that needs it would draw several gigabytes of
CUDA onto a machine without a GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from sft import ROOT
from sft.host.bootstrap import bundle, sound
from sft.host.bootstrap.stop import run, stop
from sft.host.install import backend, leftovers, manifest, torch_build
from sft.host.install.pip import CONSTRAINTS, pip_install
from sft.host.install.shown import clock

VENV = ROOT / ".venv"


def main() -> None:
    """Install everything. A set-up that was interrupted goes on where it was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dev", action="store_true", help="the tools for `make check` and `make test` too")
    dev = parser.parse_args().dev or (VENV / ".dev").exists()
    bundle.use(os.environ)
    started = time.monotonic()
    unfinished = VENV / sound.MARK
    if unfinished.exists():
        for name in leftovers.remove(Path(next(path for path in sys.path if path.endswith("site-packages")))):
            print(f"  {name}: only half of it was installed; it is installed anew", flush=True)
    unfinished.touch()
    if bundle.is_asked_for(os.environ) and (names := manifest.damaged(bundle.folder(os.environ))):
        stop(f"OFFLINE=1: {names[0]} and {len(names) - 1} others are missing or damaged in the bundle; copy it again")
    python = Path(sys.executable)
    build = torch_build.install(python)
    extras = ",".join(["dev"] * dev + ["gpu"] * (build != backend.CPU))
    print("  DeepSpeed, transformers, datasets and what they need" + ", tools for tests" * dev, flush=True)
    if not pip_install(python, *CONSTRAINTS, "-e", f".[{extras}]" if extras else "."):
        stop("pip install: failed; see its message above, then run this again")
    (VENV / "bin" / "inv").touch()  # newer than pyproject.toml and constraints.txt, for make
    if dev:
        (VENV / ".dev").touch()
    unfinished.unlink()
    print(f".venv is ready, in {clock(time.monotonic() - started)}", flush=True)


if __name__ == "__main__":
    run(main, after="the same command continues with the installation")
