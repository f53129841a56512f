"""Where rows come from: local files (jsonl, json, csv, parquet) or the hub, each row with the place it stands at."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from sft.errors import DataError, SettingsError, shown, wrong
from sft.settings import Settings, is_unicode, once

Row = dict[str, Any]
Placed = tuple[str, Row]  # "file:line" and the row

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
HELD_OUT_NAMES = ("validation", "valid", "val", "dev", "test", "eval")
csv.field_size_limit(sys.maxsize)


def local_files(path: Path) -> dict[str, list[Path]]:
    """Return the files of a local data set as {"train": [...], "validation": [...]}.

    In a folder, a file's name says what it is: train*, validation* (or valid, val, dev), test*. A validation file is
    preferred to a test file for evaluation; other files are training rows. Raises SettingsError for nothing to read.
    """
    if path.is_file():
        return {"train": [path], "validation": []}
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    held_out = {name: [file for file in files if file.name.lower().startswith(name)] for name in HELD_OUT_NAMES}
    validation = next((found for found in held_out.values() if found), [])
    everything_held_out = [file for found in held_out.values() for file in found]
    train = [file for file in files if file.name.lower().startswith("train")]
    train = train or [file for file in files if file not in everything_held_out]
    if not train:
        raise SettingsError(
            [wrong("DATASET", path, f"holds no training file ({', '.join(SUFFIXES)})", "add train.jsonl")]
        )
    return {"train": train, "validation": validation}


def read_file(path: Path) -> Iterator[Placed]:
    """Yield the rows of a local file. Raises DataError naming file and line of what cannot be read."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from read_parquet(path)
        return
    if suffix not in SUFFIXES:
        raise SettingsError([wrong("DATASET", path, "is of an unknown kind", f"use {', '.join(SUFFIXES)}")])
    yield from {".jsonl": read_jsonl, ".json": read_json, ".csv": read_csv}[suffix](path)


def open_text(path: Path) -> TextIO:
    """Open a text file; bytes that are no UTF-8 become lone surrogates, which `need_utf8` finds line by line."""
    return path.open(
        encoding="utf-8-sig", errors="surrogateescape", newline="" if path.suffix.lower() == ".csv" else None
    )


def need_utf8(text: str, where: str) -> None:
    """Raise DataError for a text read with `open_text` that was no UTF-8."""
    if not is_unicode(text):
        raise DataError(f"{where}: is no UTF-8 text; convert the file to UTF-8")


def read_jsonl(path: Path) -> Iterator[Placed]:
    """Yield one object per line; empty lines are passed over."""
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            where = f"{path}:{number}"
            need_utf8(line, where)
            if line.strip():
                yield where, as_row(parse(line, where), where)


def read_json(path: Path) -> Iterator[Placed]:
    """Yield the objects of a JSON list, or of a file that is JSON lines under another name."""
    with open_text(path) as file:
        text = file.read()
    if not text.lstrip().startswith("["):
        yield from read_jsonl(path)
        return
    if not is_unicode(text):
        for number, line in enumerate(text.split("\n"), 1):
            need_utf8(line, f"{path}:{number}")
    for number, item in enumerate(parse(text, str(path), whole=True), 1):
        yield f"{path}:item {number}", as_row(item, f"{path}:item {number}")


def read_csv(path: Path) -> Iterator[Placed]:
    """Yield the rows below the header line; empty lines are passed over."""
    with open_text(path) as file:
        reader = csv.DictReader(file, strict=True)
        try:
            names = list(reader.fieldnames or [])
            for name in names:
                need_utf8(name, f"{path}:{reader.line_num}")
                if names.count(name) > 1:
                    raise DataError(f"{path}:{reader.line_num}: has the column {shown(repr(name))} twice; rename one")
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise DataError(f"{where}: has another number of fields than the header; mend the line")
                need_utf8("".join(row.values()), where)
                yield where, row
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: {error}; mend the line") from None


def read_parquet(path: Path) -> Iterator[Placed]:
    """Yield the rows of a Parquet file, batch by batch."""
    import pyarrow
    import pyarrow.parquet

    number = 0

    def broken(error: Exception) -> DataError:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return DataError(f"{path}: is no readable Parquet file ({shown(reason)}); write it again")

    try:
        file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
        names = file.schema_arrow.names
        batches = file.iter_batches()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise broken(error) from None
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: has the column {shown(repr(name))} twice; rename one")
    while True:
        try:
            batch = next(batches, None)
            rows = [] if batch is None else batch.to_pylist()
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            raise broken(error) from None
        for row in rows:
            number += 1
            yield f"{path}:row {number}", row
        if batch is None:
            break
    if number != file.metadata.num_rows:
        raise DataError(
            f"{path}: says that it has {file.metadata.num_rows} rows, but {number} are there; write it again"
        )


def parse(text: str, where: str, whole: bool = False) -> Any:
    """Return parsed JSON, of a line or of a `whole` file. Raises DataError."""
    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        where = f"{where}:{error.lineno}" if whole else where
        raise DataError(f"{where}: is no JSON ({error.msg} at column {error.colno}); mend the line") from None
    except RecursionError:
        raise DataError(f"{where}: is nested too deep; mend the line") from None
    except ValueError as error:
        what = "holds a number of too many digits" if "integer string" in str(error) else shown(error, 200)
        raise DataError(f"{where}: {what}; mend the line") from None


def as_row(value: Any, where: str) -> Row:
    """Return `value` if it is an object. Raises DataError."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: is no JSON object but {type(value).__name__}; write one object per row")
    return value


def read_local(path: Path) -> dict[str, Iterator[Placed]]:
    """Return readers of a local data set's training and held-out rows (the latter may be empty)."""
    return {
        split: (placed for file in files for placed in read_file(file)) for split, files in local_files(path).items()
    }


def load_hub(settings: Settings) -> Any:
    """Return the splits of a hub data set, downloaded once into DATA_PATH/hub.

    Raises SettingsError where it cannot be had.
    """
    import datasets

    try:
        return datasets.load_dataset(
            settings.dataset,
            settings.dataset_config or None,
            revision=settings.dataset_revision,
            cache_dir=str(settings.data_path / "hub"),
            token=settings.huggingface_api_key.get_secret_value() or None,
        )
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        remedy = "check the name, DATASET_CONFIG and the network, or give a local file or folder"
        raise SettingsError([wrong("DATASET", settings.dataset, f"cannot be loaded ({reason})", remedy)]) from None


def hub_commit(settings: Settings) -> str | None:
    """Return the commit that DATASET_REVISION stood for when the hub's data set was loaded, where it is known."""
    files = next(iter(load_hub(settings).values())).info.download_checksums or {}
    found = (re.search(r"@([0-9a-f]{40})/", name) for name in files)
    return next((match[1] for match in found if match), None)


def read_hub(settings: Settings) -> dict[str, Iterator[Placed]]:
    """Return readers of a hub data set's training and held-out rows. Raises SettingsError where it cannot be had."""
    splits = load_hub(settings)
    if "train" not in splits:
        has = ", ".join(splits)
        raise SettingsError([wrong("DATASET", settings.dataset, f"has no train split but {has}", "use another one")])
    held_out = next((name for name in HELD_OUT_NAMES if name in splits), None)

    def rows(split: str) -> Iterator[Placed]:
        for number, row in enumerate(splits[split]):
            yield f"{settings.dataset}[{split}]:row {number}", row

    return {"train": rows("train"), "validation": rows(held_out) if held_out else iter(())}
