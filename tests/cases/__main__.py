"""Print what the project makes of inputs: `python -m tests.cases [FOLDER] [--json]`.

Without FOLDER: of the inputs of this project, and whether that is what must become of them; exit code 1 if not. With
FOLDER: of every file and folder in it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import rich.box
import rich.table

from sft.host import screen
from tests.cases import expected
from tests.cases.outcome import Outcome, make_model, outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--json", action="store_true", help="all of every outcome, as JSON")
    given = parser.parse_args()
    # Libraries write to standard output, where --json must be alone.
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(sys.stderr):
        found, wrong = of_folder(given.folder, Path(temporary)) if given.folder else of_project(Path(temporary))
    if given.json:
        content = {name: dataclasses.asdict(one) | {"is_right": name not in wrong} for name, one in found.items()}
        print(json.dumps(content, ensure_ascii=False, indent=1))
    else:
        screen.terminal().print(table(found, wrong), soft_wrap=False)
        print(f"{len(found)} inputs" + ("" if given.folder else f", {len(wrong)} of them not as in expected.toml"))
    sys.exit(bool(wrong))


def of_folder(folder: Path, temporary: Path) -> tuple[dict[str, Outcome], set[str]]:
    """Return the outcome of everything in a folder; nothing says what it must be."""
    model = make_model(temporary)
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return {path.name: outcome(path, model, temporary / "cache") for path in paths}, set()


def of_project(temporary: Path) -> tuple[dict[str, Outcome], set[str]]:
    """Return the outcomes of the project's inputs, and the names of those that are not as expected."""
    model, cases = make_model(temporary), expected.cases()
    found = {
        name: outcome(expected.input_of(name, case, temporary), model, temporary / "cache", **case.settings)
        for name, case in cases.items()
    }
    return found, {name for name, one in found.items() if one != cases[name].outcome}


def table(found: dict[str, Outcome], wrong: set[str]) -> rich.table.Table:
    """Return a table of 80 columns: each input, its sequences, and the first of them or why it is refused."""
    shown = rich.table.Table(box=rich.box.SIMPLE, width=80, pad_edge=False)
    shown.add_column("input", overflow="fold", ratio=2)
    shown.add_column("trained", justify="right")
    shown.add_column("held out", justify="right")
    shown.add_column("dropped", justify="right")
    shown.add_column("the first, or why it is refused", overflow="fold", ratio=4)
    for name, one in found.items():
        first = one.refused[0] if one.refused else next(iter(one.trained), "")
        counts = (len(one.trained), len(one.held_out), one.dropped)
        numbers = ["-"] * 3 if one.refused else map(str, counts)
        is_wrong = "  NOT AS EXPECTED" if name in wrong else ""
        shown.add_row(name, *numbers, first.replace("\n", "\\n") + is_wrong)
    return shown


if __name__ == "__main__":
    main()
