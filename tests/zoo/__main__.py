"""`python -m tests.zoo [FAMILY ...]`: the whole zoo, or some families, each in a process of its own.

A line of JSON for each family goes to `--out`, a table to the terminal. `--write TITLE=FILE …` makes docs/families.md
of such files, which may be from several machines.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

WAYS = ("packed", "padded", "lora")


def main() -> None:
    """Try the families, `--jobs` at a time."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("families", nargs="*", help="names as in model_type; all of them if none is given")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--ways", default=",".join(WAYS), help="some of " + ",".join(WAYS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="fp32 on a CPU and bf16 on a GPU by default")
    parser.add_argument("--limit-s", type=float, default=150.0, help="seconds for each family")
    parser.add_argument("--out", type=Path, default=Path("zoo.jsonl"))
    parser.add_argument("--logs", type=Path, help="keep what each family's process printed in this folder")
    parser.add_argument("--write", nargs="+", metavar="TITLE=FILE", help="write docs/families.md from earlier results")
    asked = parser.parse_args()
    if asked.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before the libraries choose a device
    from tests.zoo import runner, table

    if asked.write:
        parts = [one.rpartition("=") for one in asked.write]
        table.write([(title, runner.read(Path(path))) for title, _, path in parts])
        return
    lines = []
    precision = asked.precision or ("fp32" if asked.device == "cpu" else "bf16")
    with asked.out.open("w") as out:
        for result in runner.results(
            asked.families, asked.ways.split(","), asked.device, asked.jobs, asked.limit_s, asked.logs, precision
        ):
            lines.append(result)
            out.write(result.line() + "\n")
            out.flush()
            print(table.short(result), flush=True)
    print(table.summary(lines))


if __name__ == "__main__":
    main()
