"""Preparing many rows: `python -m benchmarks.rows --data FOLDER --rows 1000000`. One JSON line per number of rows.

The rows of a folder's train.jsonl are repeated, each with its number in the prompt, so that no two are equal. Measured
are the time, the largest resident memory of any process, and the time of a second start, which finds the cache.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from sft import resources

POLL_S = 0.2
PREPARE = "from sft.settings.load import load; from sft.trainer import prepare; print(prepare.prepare(load(None)))"


def main() -> None:
    """Measure every number of rows that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl and test.jsonl")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    arguments = parser.parse_args()
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "rows"
            write_rows(arguments.data, folder, rows)
            first, second = prepare(folder, Path(scratch)), prepare(folder, Path(scratch))
        found = {"rows": rows, "seconds": first[0], "rows_per_second": round(rows / first[0]), "peak_gib": first[1]}
        print(json.dumps(found | {"seconds_from_cache": second[0], "cores": resources.cores()}), flush=True)


def write_rows(source: Path, folder: Path, number: int) -> None:
    """Write `number` rows."""
    folder.mkdir()
    (folder / "test.jsonl").write_bytes((source / "test.jsonl").read_bytes())
    rows = [json.loads(line) for line in (source / "train.jsonl").read_text().splitlines()]
    with (folder / "train.jsonl").open("w") as file:
        for i, row in enumerate(itertools.islice(itertools.cycle(rows), number)):
            file.write(json.dumps(row | {"question": f"{i}. {row['question']}"}) + "\n")


def prepare(data: Path, scratch: Path) -> tuple[float, float]:
    """Prepare the rows in a new process; return its seconds, and the largest GiB of it or one of its workers."""
    environment = os.environ | {
        "MODEL_NAME": "tiny", "DATASET": str(data), "DATA_PATH": str(scratch / "data"), "DEVICE": "cpu",
        "MODEL_PATH": str(scratch / "models"), "TOKENIZERS_PARALLELISM": "false", "DS_ACCELERATOR": "cpu",
    }  # fmt: skip
    started, peak = time.monotonic(), 0
    with subprocess.Popen([sys.executable, "-c", PREPARE], env=environment, stdout=subprocess.DEVNULL) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                for member in [watched, *watched.children(recursive=True)]:
                    peak = max(peak, member.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
            time.sleep(POLL_S)
    if process.returncode:
        raise SystemExit(f"preparing failed with exit code {process.returncode}")
    return round(time.monotonic() - started, 1), round(peak / 2**30, 2)


if __name__ == "__main__":
    main()
